#include "launcher/generate_flags.h"

#include "launcher/terminal/checks.h"

namespace duo {

void AddGenerateFlags(CLI::App& command, GenerateFlags& flags) {
  AddRuntimeFlags(command, flags.runtime);
  auto* prompt = command.add_option("--prompt", flags.text.prompt, "The prompt")->type_name("TEXT");
  auto* file = command
                   .add_option("--prompt-file", flags.text.prompt_file,
                               "Or a file whose bytes are the prompt; -: standard input")
                   ->type_name("FILE");
  prompt->excludes(file);
  auto* messages = AddMessagesFlag(command, flags.text);
  messages->excludes(prompt)->excludes(file);
  auto* ask =
      command.add_option("--ask", flags.text.asks, "A question, put after the prompt on a fork; repeat for more")
          ->type_name("TEXT")
          ->excludes(messages)
          ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
          ->expected(1)
          ->allow_extra_args(false);
  command.add_option("--max-tokens", flags.text.max_tokens, "Cut a prompt of more tokens (default: none is cut)")
      ->transform(TokensWithUnit())
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->excludes(messages);
  command.add_option("--max-new-tokens", flags.max_new_tokens, "Length of an answer at most")
      ->transform(TokensWithUnit())
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->capture_default_str();
  command.add_option("--stop", flags.stops, "An answer ends before this text; repeat for more")
      ->type_name("TEXT")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->allow_extra_args(false);
  command.add_option("--temperature", flags.temperature, "0: the most likely token; above: sampling")
      ->check(CLI::Range(0.0, 100.0))
      ->group("Sampling")
      ->capture_default_str();
  command.add_option("--top-p", flags.top_p, "Sample from the most likely tokens that make up this probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->group("Sampling")
      ->capture_default_str();
  command.add_option("--seed", flags.seed, "Draws with the same seed are the same")
      ->group("Sampling")
      ->capture_default_str();
  AddSamplingFlags(command, flags.sampling);
  AddSpeculateFlag(command, flags.runtime);
  AddSparsityFlags(command, flags.runtime);
  AddDecodeSparsityFlag(command, flags.runtime);
  AddKeyMeansFlag(command, flags.runtime);
  auto* chat = command.add_flag(
      "--chat", flags.text.chat,
      "Talk in the turns of the model's chat template: the prompt is a user turn; each --ask is put into that turn "
      "instead, after a blank line");
  command.add_option("--system", flags.text.system, "With --chat: the system turn (default: the template's own)")
      ->type_name("TEXT")
      ->needs(chat);
  AddTemplateArgFlag(command, flags.text);
  command.add_flag("--special", flags.text.special,
                   "Read the text of special tokens in prompt and questions as those tokens");
  auto* json = command.add_flag("--json", flags.json, "Print one JSON object");
  auto* sources =
      command
          .add_option(
              "--sources", flags.sources,
              "Name the so many sentences of the prompt at which the model looked most while it wrote an answer, "
              "with their lines: attention provenance, which is where it looked, not proof")
          ->type_name("N")
          ->check(CLI::Range(1, 1000))
          ->excludes(messages);
  command.add_flag("--token-sources", flags.token_sources, "With --sources and --json: those of each token, too")
      ->needs(sources)
      ->needs(json);
  command
      .add_option(
          "--replay", flags.replay,
          "Ask each --ask behind a copy of the so many sentences of the prompt that it looks at most when it is read "
          "alone: another question, which may find what lies far back more surely, or be led astray")
      ->type_name("N")
      ->check(CLI::Range(1, 64))
      ->needs(ask)
      ->excludes(messages);
}

}  // namespace duo
