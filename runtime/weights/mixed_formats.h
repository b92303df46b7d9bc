// The formats of llama.cpp's mixture Q4_K_M for a model without a file, to measure with random weights: Q4_K, but Q6_K
// for the head, and in half of the layers for v and down. As in ChooseFormats, q, k and v become one matrix, and each
// matrix has the nearest format that holds it and that the device has. A pure function, any thread.
#pragma once

#include "runtime/weights/weights.h"

namespace duo {

constexpr char kMixedWeights[] = "q4_k_m";  // its name among the formats of --weights

WeightFormats MixedFormats(const ModelConfig& config, bool on_cuda);

}  // namespace duo
