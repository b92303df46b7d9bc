// Writes man pages and shell completion into a folder, made from the program's help: make_docs DIR DATE

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "launcher/app.h"
#include "launcher/package/docs.h"
#include "launcher/terminal/version.h"

namespace duo {
namespace {

bool Write(const std::filesystem::path& file, const std::string& text) {
  std::error_code error;
  std::filesystem::create_directories(file.parent_path(), error);
  std::ofstream out(file, std::ios::binary);
  out << text;
  return static_cast<bool>(out.flush());
}

bool WriteAll(const std::filesystem::path& dir, const char* date) {
  Launch launch;
  const Surroundings surroundings;
  const std::unique_ptr<CLI::App> app = MakeApp(launch, surroundings);
  app->set_version_flag("--version", "", "Print version, commit and how it was built");
  bool written = Write(dir / "man1" / "duo.1", ManPage(*app, "duo", kVersion, date)) &&
                 Write(dir / "duo.bash", BashCompletion(*app)) && Write(dir / "_duo", ZshCompletion(*app));
  for (const CLI::App* command : SubcommandsOf(*app)) {
    const std::string name = command->get_name();
    written = written && Write(dir / "man1" / ("duo-" + name + ".1"), ManPage(*command, "duo " + name, kVersion, date));
  }
  return written;
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "error: make_docs wants a folder and a date, as in make_docs docs 2026-01-31\n");
    return 2;
  }
  if (duo::WriteAll(argv[1], argv[2])) return 0;
  std::fprintf(stderr, "error: cannot write the man pages into %s\n", argv[1]);
  return 1;
}
