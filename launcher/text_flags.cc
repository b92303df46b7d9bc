#include "launcher/text_flags.h"

namespace duo {

CLI::Option* AddMessagesFlag(CLI::App& command, TextFlags& flags) {
  return command
      .add_option("--messages", flags.messages_file,
                  "Or a JSON file of chat turns: a list of {role, content}, or {messages, tools}")
      ->type_name("FILE");
}

void AddTemplateArgFlag(CLI::App& command, TextFlags& flags) {
  command
      .add_option("--template-arg", flags.template_arguments,
                  "A variable for the chat template, as enable_thinking=false; repeat for more")
      ->type_name("NAME=VALUE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->allow_extra_args(false);
}

}  // namespace duo
