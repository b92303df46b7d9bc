#include "launcher/app.h"

#include "launcher/cmd_chat.h"
#include "launcher/terminal/help.h"

namespace duo {

std::unique_ptr<CLI::App> MakeApp(Launch& launch, const Surroundings& surroundings) {
  auto app = std::make_unique<CLI::App>(
      "duo reads a very long document once, keeps it in memory, and answers questions on it for as long\n"
      "as you like. It implements DuoAttention: a few attention heads keep the whole KV cache, the others\n"
      "a constant-size one.",
      "duo");
  app->formatter(std::make_shared<HelpFormatter>());  // before the subcommands, which take it over
  app->set_help_flag("-h,--help", "Print this help");
  app->require_subcommand(1);
  app->footer(
      "Examples:\n"
      "  duo generate --model DIR --prompt-file book.txt --ask 'Who is the narrator?'\n"
      "  duo info --model DIR\n"
      "  duo plan --model DIR --world 8\n"
      "  mpirun -n 4 duo generate --model DIR --prompt-file book.txt\n"
      "Help on one of them: duo help SUBCOMMAND, or duo SUBCOMMAND --help");
  AddGenerateCommand(*app, launch);
  AddIdentifyCommand(*app, launch);
  AddInfoCommand(*app, launch);
  AddBenchCommand(*app, launch);
  AddPlanCommand(*app, launch);
  AddTokenizeCommand(*app, launch);
  AddServeCommand(*app, launch, surroundings);
  AddClientCommand(*app, launch);
  AddChatCommand(*app, launch);
  return app;
}

}  // namespace duo
