// The flags of `duo identify`.
#pragma once

#include <cstdint>
#include <string>

#include "CLI/CLI.hpp"
#include "launcher/terminal/runtime_flags.h"

namespace duo {

// Zero, of a number without another default: chosen by device, ranks and model.
struct IdentifyFlags {
  RuntimeFlags runtime;
  std::string out, haystack, task = "auto", evaluate, provenance_only, key_means, full_branch = "teacher";
  int steps = 0, samples = 0, facts = 10, words = 32, documents = 2, sink = 64, recent = 256;
  double rate = 0.02, reg = 0.05;
  int64_t min_length = 0, max_length = 0, perplexity_tokens = 16384;
  uint64_t seed = 0;
  bool quick = false, json = false;
};

// Declares them; `flags` must live until the command line is read.
void AddIdentifyFlags(CLI::App& command, IdentifyFlags& flags);

}  // namespace duo
