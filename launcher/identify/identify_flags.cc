#include "launcher/identify/identify_flags.h"

#include <vector>

#include "launcher/terminal/checks.h"

namespace duo {

namespace {

void AddDataFlags(CLI::App& command, IdentifyFlags& flags) {
  const char* data = "Data";
  command
      .add_option("--haystack", flags.haystack,
                  "Text to hide facts in (default: licences and Perl pods that the system carries)")
      ->type_name("FILE")
      ->group(data);
  command
      .add_option(
          "--task", flags.task,
          "passkey: words of the spelling alphabet, for instruct models; needle: six-digit passcodes, which the "
          "demo model was trained on; auto: passkey if the model can answer it, else the better one")
      ->check(CLI::IsMember({"auto", "passkey", "needle"}))
      ->capture_default_str()
      ->group(data);
  command.add_option("--min-length", flags.min_length, "Tokens of the shortest document (default 1000)")
      ->transform(TokensWithUnit())
      ->group(data);
  command
      .add_option("--max-length", flags.max_length,
                  "Tokens of the longest (default 32000 on a GPU, 2000 on the CPU, or what the model's positions hold)")
      ->transform(TokensWithUnit())
      ->group(data);
  command.add_option("--facts", flags.facts, "Facts in a document")
      ->check(CLI::Range(1, 20))
      ->capture_default_str()
      ->group(data);
  command.add_option("--words", flags.words, "Words of a training passkey; held-out ones have at most 8")
      ->check(CLI::Range(1, 256))
      ->capture_default_str()
      ->group(data);
  command.add_option("--seed", flags.seed, "Of the samples")->capture_default_str()->group(data);
}

// Those that mean nothing where nothing is trained.
std::vector<CLI::Option*> AddTrainingFlags(CLI::App& command, IdentifyFlags& flags) {
  RuntimeFlags& r = flags.runtime;
  const char* training = "Training";
  auto* steps = command.add_option("--steps", flags.steps, "Steps (default 2000 on a GPU, 200 on the CPU)")
                    ->check(CLI::Range(1, 1 << 20))
                    ->group(training);
  auto* samples =
      command.add_option("--samples", flags.samples, "Samples a step, over all ranks (default: one a rank)")
          ->check(CLI::Range(1, 1 << 16))
          ->group(training);
  auto* rate = command.add_option("--lr", flags.rate, "Learning rate at its height")
                   ->check(AboveZero())
                   ->capture_default_str()
                   ->group(training);
  auto* reg =
      command
          .add_option("--reg", flags.reg,
                      "Weight of the mean gate in the loss: higher keeps fewer heads. A gate pays reg / gates: the "
                      "paper's 0.05 is for 256 gates and more; models of fewer need less, or most gates end at zero "
                      "and rank by chance")
          ->check(ZeroOrMore())
          ->capture_default_str()
          ->group(training);
  auto* full_branch =
      command
          .add_option(
              "--full-branch", flags.full_branch,
              "Whose full attention a half-open head mixes in. teacher: the untouched model's, as DuoAttention's "
              "released code has it. student: its own, so that gates also pay for what streaming heads do to "
              "later layers; slower on long documents")
          ->check(CLI::IsMember({"teacher", "student"}))
          ->capture_default_str()
          ->group(training);
  command.add_option("--sink", r.sink, "First tokens that streaming heads keep (default 64, or the pattern's)")
      ->check(ZeroOrMore())
      ->group(training);
  command.add_option("--recent", r.recent, "Last tokens that they keep (default 256, or the pattern's)")
      ->check(AboveZero())
      ->group(training);
  return {steps, samples, rate, reg, full_branch};
}

void AddReportFlags(CLI::App& command, IdentifyFlags& flags) {
  const char* report = "Report";
  command.add_option("--documents", flags.documents, "Held-out documents of each length")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str()
      ->group(report);
  command.add_option("--perplexity-tokens", flags.perplexity_tokens, "Held-out tokens to predict, at most")
      ->check(CLI::Range(2, 1 << 24))
      ->transform(TokensWithUnit())  // before the range is looked at
      ->capture_default_str()
      ->group(report);
  command.add_option("--sparsity", flags.runtime.sparsity, "This sparsity alone, beside full attention and streaming")
      ->check(CLI::Range(0.0, 1.0))
      ->group(report);
  command.add_flag("--json", flags.json, "Print the report as one JSON object")->group(report);
}

}  // namespace

void AddIdentifyFlags(CLI::App& command, IdentifyFlags& flags) {
  RuntimeFlags& r = flags.runtime;
  command
      .add_option("--model", r.model, "Model: a folder (config.json, tokenizer.json, *.safetensors) or a .gguf file")
      ->required()
      ->type_name("PATH");
  command.add_option("--out", flags.out, "Folder for the pattern and its report")->type_name("DIR");
  auto* evaluate = command
                       .add_option("--evaluate", flags.evaluate,
                                   "Train nothing: measure this pattern, and what heads attend to outside the window")
                       ->type_name("DIR");
  auto* quick = command.add_flag("--quick", flags.quick,
                                 "Train nothing: gates from where heads look while the model answers, in forward "
                                 "passes alone; seconds for a small "
                                 "model. Trained gates are better: --evaluate measures both");
  auto* provenance = command
                         .add_option("--provenance-only", flags.provenance_only,
                                     "Train nothing: find out which heads of this pattern look at the facts that "
                                     "answers need, and put them into its config.json, for --sources")
                         ->type_name("DIR");
  auto* key_means = command
                        .add_option("--key-means", flags.key_means,
                                    "Train nothing: measure the mean of the model's keys over this text, in forward "
                                    "passes of up to 16,384 tokens, and write it to key_means.tsv in --out, for "
                                    "--key-means of other commands")
                        ->type_name("TEXT");
  evaluate->excludes(quick)->excludes(provenance)->excludes(key_means);
  quick->excludes(provenance)->excludes(key_means);
  provenance->excludes(key_means);

  AddDataFlags(command, flags);
  const std::vector<CLI::Option*> training = AddTrainingFlags(command, flags);
  AddReportFlags(command, flags);
  AddDeviceFlags(command, r);
  for (CLI::Option* option : training) {
    evaluate->excludes(option);
    provenance->excludes(option);
    key_means->excludes(option);
    if (option->get_name() != "--sink" && option->get_name() != "--recent") quick->excludes(option);
  }
}

}  // namespace duo
