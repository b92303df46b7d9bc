// RoPE frequencies with the scalings of Hugging Face transformers 5.x (modeling_rope_utils.py): pair i of a head
// (elements i and i + head_dim/2) at position p turns by p * inv_freq[i], and cos and sin are multiplied by
// attention_factor (the "mscale" of YaRN, arXiv 2309.00071; 1 otherwise). Everything is f64: an f32 angle is off by
// 0.03 rad at a million tokens.
//
//   base        f_i = theta^(-2i/d)
//   linear      f_i / factor
//   dynamic     base with theta' = theta (factor n / m - (factor - 1))^(d / (d - 2)),
//               m = max_position_embeddings, n = max(max_tokens, m)     ("NTK-aware" scaling)
//   llama3      with wavelength w_i = 2 pi / f_i and original context c: f_i where w_i < c / high_freq_factor,
//               f_i / factor where w_i > c / low_freq_factor, between them the mix (1 - s) f_i / factor + s f_i,
//               s = (c / w_i - low) / (high - low)
//   yarn        a ramp over the dimensions between those that turn beta_fast and beta_slow times in the original
//               context, from f_i (fast) to f_i / factor (slow); attention factor 0.1 ln(factor) + 1
//
// transformers computes `dynamic` anew whenever a forward pass is longer than any before and leaves the keys that are
// already cached rotated by the older base, so its result depends on how a prompt was chunked. Here a session has one
// base for its whole life, fixed by the tokens it reserves (`max_tokens`); keys in the cache stay right whatever the
// chunking, and a prompt run in one pass with max_tokens = its length gives transformers' numbers.
// Pure functions, any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/weights/config.h"

namespace duo {

struct RopeFrequencies {
  std::vector<double> inv_freq;  // [head_dim / 2], radians per token
  double attention_factor = 1;   // multiplies cos and sin

  bool operator==(const RopeFrequencies&) const = default;
};

// max_tokens is what the session may grow to, prompt and generated tokens together; only `dynamic` depends on it.
RopeFrequencies ComputeRopeFrequencies(const ModelConfig& config, int64_t max_tokens);

}  // namespace duo
