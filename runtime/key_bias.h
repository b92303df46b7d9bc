// How far a model's key biases reach beyond its keys' spread, read off the weights. Why: int4 KV has 16 levels between
// a key's smallest and largest channel; where a bias makes one channel many times larger than the others vary, all of
// these fall into one or two levels. Values only; any thread.
#pragma once

#include "absl/status/statusor.h"
#include "runtime/config.h"
#include "runtime/safetensors.h"

namespace duo {

struct KeyBias {
  int layer = 0, kv_head = 0;
  // The largest |bias| of the head's channels over the root mean square of what the projection adds to it, for inputs
  // of unit variance behind the layer's norm. A head without biases spans about 5 of these units.
  double ratio = 0;
};

// From here on int4 KV raised the perplexity of random Qwen2 models by more than 3 %
// (tests/equivalence/key_bias_test.cc).
inline constexpr double kLargeKeyBias = 8;

// The head with the largest ratio; ratio 0 for models without key biases.
absl::StatusOr<KeyBias> LargestKeyBias(const SafetensorsModel& files, const ModelConfig& config);

}  // namespace duo
