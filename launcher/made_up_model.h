// A model that is made up, to measure a service without a checkpoint: random weights of a named shape, and a tokenizer
// for them. What it answers means nothing. Pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/runtime_flags.h"
#include "runtime/text/tokenizer.h"

namespace duo {

// The engine's options for such a model; sizes are still to be set. attention auto is duo, with heads of both classes
// spread evenly. INVALID_ARGUMENT for a shape that has no name.
absl::StatusOr<ProbeOptions> MadeUpModel(const RuntimeFlags& flags, const Launch& launch, const std::string& shape);

// Reads a byte as a token, 0 to 255; every other token of the vocabulary is written as a word of its own, so that an
// answer's text grows with every token.
absl::StatusOr<Tokenizer> MadeUpTokenizer(int64_t vocab);

}  // namespace duo
