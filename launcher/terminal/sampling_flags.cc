#include "launcher/terminal/sampling_flags.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"

namespace duo {

namespace {

std::optional<TokenBias> ReadBias(const std::string& text) {
  TokenBias bias;
  const size_t equals = text.find('=');
  if (equals == std::string::npos || !absl::SimpleAtoi(text.substr(0, equals), &bias.token) ||
      !absl::SimpleAtof(text.substr(equals + 1), &bias.bias)) {
    return std::nullopt;
  }
  return bias;
}

}  // namespace

void AddSamplingFlags(CLI::App& command, SamplingFlags& flags) {
  SamplingRules& r = flags.rules;
  const char* group = "Sampling";
  command.add_option("--top-k", r.top_k, "Sample from the so many most likely tokens; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->group(group);
  command.add_option("--min-p", r.min_p, "Sample from tokens at least so many times as likely as the likeliest")
      ->check(CLI::Range(0.0, 1.0))
      ->group(group);
  command.add_option("--presence-penalty", r.presence_penalty, "Taken off the logit of tokens that the answer has")
      ->check(CLI::Range(-2.0, 2.0))
      ->group(group);
  command.add_option("--frequency-penalty", r.frequency_penalty, "Taken off it as often as the answer has the token")
      ->check(CLI::Range(-2.0, 2.0))
      ->group(group);
  command
      .add_option("--repetition-penalty", r.repetition_penalty,
                  "Above 1: makes tokens that the answer has less likely, by dividing their logits")
      ->check(CLI::Range(0.01, 100.0))
      ->group(group);
  command.add_option("--logit-bias", flags.biases, "Added to a token's logit, -100 to 100; repeat for more")
      ->type_name("TOKEN=BIAS")
      ->check(CLI::Validator(
          [](const std::string& text) {
            return ReadBias(text).has_value() ? std::string()
                                              : absl::StrCat("expected TOKEN=BIAS, as 42=-5.5, found ", text);
          },
          ""))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->allow_extra_args(false)
      ->group(group);
  command.add_option("--stop-token", r.stop_tokens, "A token id that ends the answer; repeat for more")
      ->type_name("TOKEN")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->allow_extra_args(false)
      ->group(group);
  command.add_option("--min-new-tokens", r.min_new_tokens, "Before so many the answer does not end by a token")
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  command.add_flag("--ignore-eos", flags.ignore_eos, "The model's end tokens do not end the answer")->group(group);
  command
      .add_option("--logprobs", r.scores,
                  "With --json: log-probabilities of the answer's tokens and of so many of the best in their place")
      ->check(CLI::Range(0, static_cast<int>(kMostBest)))
      ->group(group);
  command.add_option("--prompt-logprobs", r.prompt_scores, "The same of what is asked, but for its first token")
      ->check(CLI::Range(0, static_cast<int>(kMostBest)))
      ->group(group);
  const char* kind = "What the answer is to be";
  CLI::Option* guides[] = {
      command.add_flag("--json-object", flags.json_object, "A JSON object")->group(kind),
      command.add_option("--json-schema", flags.json_schema_file, "JSON that satisfies the schema in this file")
          ->type_name("FILE")
          ->group(kind),
      command.add_option("--regex", flags.regex, "A text that this pattern matches as a whole")
          ->type_name("PATTERN")
          ->group(kind),
      command.add_option("--grammar", flags.grammar_file, "A text of the GBNF grammar in this file")
          ->type_name("FILE")
          ->group(kind)};
  for (CLI::Option* one : guides) {
    for (CLI::Option* other : guides) {
      if (one != other) one->excludes(other);
    }
  }
}

absl::StatusOr<Guide> ReadGuideFlags(const SamplingFlags& flags) {
  if (flags.json_object) return Guide{Guide::Kind::kJsonObject, ""};
  if (!flags.regex.empty()) return Guide{Guide::Kind::kRegex, flags.regex};
  const bool schema = !flags.json_schema_file.empty();
  if (!schema && flags.grammar_file.empty()) return Guide{};
  absl::StatusOr<std::string> text = ReadFile(schema ? flags.json_schema_file : flags.grammar_file);
  if (!text.ok()) return text.status();
  return Guide{schema ? Guide::Kind::kJsonSchema : Guide::Kind::kGrammar, *text};
}

absl::StatusOr<SamplingRules> ReadSamplingFlags(const SamplingFlags& flags) {
  SamplingRules rules = flags.rules;
  for (const std::string& text : flags.biases) {
    const std::optional<TokenBias> bias = ReadBias(text);
    if (!bias.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("--logit-bias: expected TOKEN=BIAS, found \"", text, "\""));
    }
    rules.logit_bias.push_back(*bias);
  }
  return rules;
}

}  // namespace duo
