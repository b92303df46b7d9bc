// QuantizationConfig: config.json's quantization_config (or compression_config) as a plain value. It is what the
// checkpoint says about its own tensors; whether they can be loaded is for the weights code to say.
// Values only, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace duo {

// kGguf: blocks, whose type each tensor names itself; `format` counts them. kFp8Blocks: quant_method "fp8", in blocks
// (compressed-tensors has such too) or with a scale for each tensor.
enum class QuantizationKind : uint8_t { kNone, kCompressedTensors, kAwq, kGptq, kGguf, kMxfp4, kFp8Blocks };
enum class QuantizationType : uint8_t { kInt, kFloat };
enum class QuantizationGranularity : uint8_t { kTensor, kChannel, kGroup };

// How the numbers of one operand are stored.
struct QuantizationScheme {
  int bits = 0;  // 0: not quantised
  QuantizationType type = QuantizationType::kInt;
  QuantizationGranularity granularity = QuantizationGranularity::kTensor;
  int group_size = 0;     // kGroup: consecutive input features that share a scale
  bool symmetric = true;  // no zero point
  bool dynamic = false;   // scales are computed when running (activations)

  bool operator==(const QuantizationScheme&) const = default;
};

struct QuantizationConfig {
  QuantizationKind kind = QuantizationKind::kNone;
  std::string format;  // compressed-tensors "float-quantized", ..; AWQ's version "gemm"; GPTQ's checkpoint_format
  QuantizationScheme weights;
  QuantizationScheme activations;      // bits 0: activations stay in 16 bits
  std::vector<std::string> targets;    // compressed-tensors: "Linear", names or "re:" patterns
  std::vector<std::string> ignore;     // modules that stay unquantised, names or "re:" patterns
  int block_rows = 0, block_cols = 0;  // of fp8 in blocks: of a weight matrix, that share a scale; else 0
  bool activation_order = false;       // GPTQ desc_act, compressed-tensors actorder: columns have a g_idx

  bool operator==(const QuantizationConfig&) const = default;
};

// `json` is the text of config.json's object; `file` is what errors call it. A quant_method or scheme that has no place
// in the struct is refused by name.
absl::StatusOr<QuantizationConfig> ParseQuantizationConfig(std::string_view json, const std::string& file);

// Whether one of duo's formats can hold the stored codes; otherwise weights become 16-bit ones unless asked otherwise.
inline bool KeepsCodes(const QuantizationConfig& config) {
  const bool narrow = config.block_cols > 0 && config.block_cols % 16 != 0;  // code_format.h's ScaleBlockFormat
  return config.kind != QuantizationKind::kMxfp4 && !narrow;
}

// Bits of the codes of an MLP's matrices as duo holds them; 16 where they become 16-bit ones, and of GGUF files, whose
// tensors have types of their own.
inline int StoredBits(const QuantizationConfig& config) {
  if (config.kind == QuantizationKind::kMxfp4) return 4;
  return KeepsCodes(config) && config.weights.bits > 0 ? config.weights.bits : 16;
}

// "compressed-tensors float-quantized, 8-bit float weights per channel" and the like, for messages.
std::string Describe(const QuantizationConfig& config);

}  // namespace duo
