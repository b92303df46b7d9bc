// The formats of mixtures in which models come, for a model without a file, to measure with random weights. A pure
// function, any thread.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/weights/weights.h"

namespace duo {

// Their names among the formats of --weights.
// llama.cpp's Q4_K_M: Q4_K, but Q6_K for the head, and in half of the layers for v and down. As in ChooseFormats, q, k
// and v become one matrix, and each matrix has the nearest format that holds it and that the device has.
constexpr char kMixedWeights[] = "q4_k_m";
// gpt-oss's: experts MXFP4, all else bf16.
constexpr char kMxfp4Weights[] = "mxfp4";
inline bool IsMixture(std::string_view name) { return name == kMixedWeights || name == kMxfp4Weights; }

WeightFormats MixedFormats(const ModelConfig& config, bool on_cuda, std::string_view mixture);

// Of a config of several groups, by what it says alone, for plans without files: ChooseFormats of files that keep to
// it.
absl::StatusOr<WeightFormats> FormatsOfGroups(const ModelConfig& config, bool on_cuda);

}  // namespace duo
