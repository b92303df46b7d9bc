// The flags of `duo generate` and `duo client ask` that say how an answer's tokens are drawn, beyond --temperature,
// --top-p and --seed. Where a flag is not given nothing changes. One thread.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/scheduler/sampling_rules.h"
#include "runtime/text/grammar/guide.h"

namespace duo {

struct SamplingFlags {
  SamplingRules rules;
  std::vector<std::string> biases;  // TOKEN=BIAS
  bool ignore_eos = false;
  bool json_object = false;
  std::string json_schema_file, regex, grammar_file;  // at most one of the four
};

void AddSamplingFlags(CLI::App& command, SamplingFlags& flags);

// The rules with --logit-bias read. INVALID_ARGUMENT where one is not TOKEN=BIAS.
absl::StatusOr<SamplingRules> ReadSamplingFlags(const SamplingFlags& flags);

// What the answer is to be. NOT_FOUND where a file cannot be read.
absl::StatusOr<Guide> ReadGuideFlags(const SamplingFlags& flags);

}  // namespace duo
