// How far apart two runs on GPUs may be whose KV cache holds codes.
//
// The tolerance of a golden is twice what bf16 arithmetic moves its logits. That does not cover codes: two ways of
// adding up the same sums give keys that differ by a bf16's last bit, and one that lies at the edge between two codes
// then becomes the other one, a whole step away, in all that is read from then on. So does a mixture's choice of an
// expert that leads by less than 16 bits move its router's logits. How far this moves logits depends on the model and
// the codec, so it is measured: one GPU against the CPU, which computes in f32 with the same codec.
#pragma once

#include "runtime/engine/engine.h"
#include "tests/golden/golden_model.h"

namespace duo {

// Twice the largest difference of a logit between one rank on `device`, a GPU, and the CPU, over a few documents with
// greedy answers, as long as these agree; at least the golden's own tolerance. options: of an engine of one rank, with its
// KV format and max_session_tokens. Prints what it found. Rank 0 alone.
float CodedTolerance(const EngineOptions& options, const GoldenRun& run, Device& device);

}  // namespace duo
