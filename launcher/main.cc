// `duo`: parses the command line, runs one subcommand. Exit codes: 0 done, 2 bad usage, 1 everything else with one line
// "error: ..." on stderr.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "attn_patterns/lookup.h"
#include "launcher/app.h"
#include "launcher/build_info.h"
#include "launcher/terminal/checks.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/help.h"
#include "launcher/terminal/runtime_flags.h"
#include "launcher/terminal/streams.h"
#include "launcher/terminal/usage_error.h"
#include "parallel/mpi_session.h"

namespace duo {
namespace {

// The environment's variables DUO_.
Environment DuoVariables() {
  Environment found;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (!text.starts_with("DUO_") || equals == std::string_view::npos) continue;
    found.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return found;
}

// What is printed and did not get out makes a good end a bad one.
int Ended(int code) {
  const absl::Status written = FlushOutput();
  return written.ok() || code != 0 ? code : Fail(written);
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  duo::OpenClosedStreams();
  duo::Launch launch;
  duo::Surroundings surroundings;
  launch.program = duo::ProgramPath();
  launch.under_mpirun = duo::MpiSession::Launched(
      {std::getenv("OMPI_COMM_WORLD_SIZE"), std::getenv("PMIX_RANK"), std::getenv("PMI_RANK")});
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(name); launch.under_mpirun && rank != nullptr) launch.rank = std::atoi(rank);
  }
  if (launch.under_mpirun) launch.world = 0;
  for (const char* name : {"SLURM_STEP_NUM_TASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"}) {
    if (const char* size = std::getenv(name); launch.under_mpirun && size != nullptr) launch.world = std::atoi(size);
  }

  if (const char* socket = std::getenv("NOTIFY_SOCKET")) surroundings.notify_socket = socket;
  const duo::BuildInfo build = duo::ThisBuild();
  surroundings.commit = build.commit;
  const std::unique_ptr<CLI::App> app = duo::MakeApp(launch, surroundings);
  app->set_version_flag("--version", duo::Describe(build), "Print version, commit and how it was built");
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const absl::StatusOr<std::vector<std::string>> asked = duo::HelpAsFlag(*app, arguments);
  if (asked.ok()) arguments = *asked;
  const auto refused = [&](const std::string& why) {
    if (launch.rank == 0) std::fprintf(stderr, "error: %s\n", duo::UsageError(*app, arguments, why).c_str());
    return 2;
  };
  if (!asked.ok()) {
    std::erase(arguments, "help");  // what is left names the command whose help is meant
    return refused(std::string(asked.status().message()));
  }
  absl::StatusOr<duo::Settings> settings = duo::Settings::Gather(*app, arguments, duo::DuoVariables());
  if (!settings.ok()) return refused(std::string(settings.status().message()));
  surroundings.settings = *std::move(settings);
  try {
    const std::vector<std::string> words = surroundings.settings.Expanded();
    duo::RefuseEmptyParts(*app, words);
    app->parse(std::vector<std::string>(words.rbegin(), words.rend()));  // as the parser wants them
    duo::RefuseNoNumbers(*app);
  } catch (const CLI::ParseError& error) {  // help and version are errors of code 0 here
    if (error.get_exit_code() != 0) return refused(surroundings.settings.Explained(duo::InOurWords(error.what())));
    // The parser helps with the command ahead of a word that it does not know.
    if (duo::UsageError(*app, arguments, "").starts_with("unknown command")) return refused("");
    app->exit(error);
    return duo::Ended(0);
  }
  return duo::Ended(launch.chosen());
}
