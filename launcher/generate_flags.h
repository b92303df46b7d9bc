// The flags of `duo generate`.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "launcher/terminal/runtime_flags.h"
#include "launcher/terminal/sampling_flags.h"
#include "launcher/text_flags.h"

namespace duo {

struct GenerateFlags {
  RuntimeFlags runtime;
  TextFlags text;
  std::vector<std::string> stops;
  int64_t max_new_tokens = 128;
  double temperature = 0, top_p = 1;
  uint64_t seed = 0;
  SamplingFlags sampling;
  int sources = 0;             // of an answer; 0: it does not look for them
  bool token_sources = false;  // of each token, too
  int replay = 0;              // sentences that each question is asked behind; 0: none
  bool json = false;
};

// Adds them to a command. `flags` must outlive it.
void AddGenerateFlags(CLI::App& command, GenerateFlags& flags);

}  // namespace duo
