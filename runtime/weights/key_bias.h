// What int4 keys do to a model's attention, estimated from the model's weights. Why: int4 KV has 16 levels between a
// key's smallest and largest channel, so a key is off by a part of the key's range, and an attention logit by that
// error times the query. A bias that makes one channel many times larger than the others vary leaves the others one or
// two levels. The inputs are taken to have unit variance behind the layer's norm, which is rough: the figures tell
// models apart and predict nothing to the digit. Values only; any thread.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/base/thread_pool.h"
#include "runtime/weights/config.h"
#include "runtime/weights/safetensors.h"

namespace duo {

struct KeyRounding {
  // The KV head whose largest |bias| is the most times the root mean square of what the projection adds to it. A head
  // without biases spans about 5 of these units. Ratio 0: no key has a bias.
  int layer = 0, kv_head = 0;
  double bias_ratio = 0;
  // Root mean square over all heads of what int4 keys add to an attention logit: |q| * (range of k / 15) / sqrt(12 d).
  double logit_noise = 0;
};

// From about here on int4 KV costs visibly more than without biases: a random Qwen2 passes 3 % of perplexity between 48
// and 64 (tests/equivalence/key_bias_test.cc), and trained models are more sensitive than random ones.
inline constexpr double kLargeKeyBias = 32;
// SmolLM2-135M-Instruct has 0.22 and loses 6 % of perplexity to int4 KV; the loss goes with the square, and 3 % is
// here.
inline constexpr double kLargeLogitNoise = 0.16;

absl::StatusOr<KeyRounding> EstimateKeyRounding(const SafetensorsModel& files, const ModelConfig& config,
                                                ThreadPool& pool);

}  // namespace duo
