// `duo`: parses the command line, runs one subcommand. Exit codes: 0 done, 2 bad usage, 1 everything else with one line
// "error: ..." on stderr.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "attn_patterns/lookup.h"
#include "launcher/terminal/checks.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/help.h"
#include "launcher/terminal/runtime_flags.h"
#include "launcher/terminal/streams.h"
#include "launcher/terminal/usage_error.h"
#include "launcher/terminal/version.h"
#include "parallel/mpi_session.h"

namespace duo {
namespace {

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
  launch.program = duo::ProgramPath();
  launch.under_mpirun = duo::MpiSession::Launched(
      {std::getenv("OMPI_COMM_WORLD_SIZE"), std::getenv("PMIX_RANK"), std::getenv("PMI_RANK")});
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(name); launch.under_mpirun && rank != nullptr) launch.rank = std::atoi(rank);
  }

  CLI::App app(
      "duo reads a very long document once, keeps it in memory, and answers questions on it for as long\n"
      "as you like. It implements DuoAttention: a few attention heads keep the whole KV cache, the others\n"
      "a constant-size one.",
      "duo");
  app.formatter(std::make_shared<duo::HelpFormatter>());  // before the subcommands, which take it over
  app.set_help_flag("-h,--help", "Print this help");
  app.set_version_flag("--version", std::string("duo ") + duo::kVersion, "Print the version");
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  duo generate --model DIR --prompt-file book.txt --ask 'Who is the narrator?'\n"
      "  duo info --model DIR\n"
      "  duo plan --model DIR --world 8\n"
      "  mpirun -n 4 duo generate --model DIR --prompt-file book.txt\n"
      "Help on one of them: duo SUBCOMMAND --help");
  duo::AddGenerateCommand(app, launch);
  duo::AddIdentifyCommand(app, launch);
  duo::AddInfoCommand(app, launch);
  duo::AddBenchCommand(app, launch);
  duo::AddPlanCommand(app, launch);
  duo::AddTokenizeCommand(app, launch);
  duo::AddServeCommand(app, launch);
  duo::AddClientCommand(app, launch);
  try {
    app.parse(argc, argv);
    duo::RefuseNoNumbers(app);
  } catch (const CLI::ParseError& error) {  // help and version are errors of code 0 here
    if (error.get_exit_code() == 0) {
      app.exit(error);
      return duo::Ended(0);
    }
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    if (launch.rank == 0) {
      std::fprintf(stderr, "error: %s\n", duo::UsageError(app, arguments, error.what()).c_str());
    }
    return 2;
  }
  return duo::Ended(launch.chosen());
}
