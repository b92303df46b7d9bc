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
#include "runtime/weights/module_target.h"

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

// One of compressed-tensors' config_groups, where there are several: what it says of the modules that its targets name.
struct QuantizationGroup {
  std::string name;    // "group_0"
  std::string format;  // "float-quantized", ..
  std::vector<ModuleTarget> targets;
  QuantizationScheme weights;  // bits 0: the group is of activations alone
  QuantizationScheme activations;
  int block_rows = 0, block_cols = 0;
  bool activation_order = false;

  bool operator==(const QuantizationGroup&) const = default;
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
  // Of several groups, which weights and activations, targets and blocks are then those of; `ignored` is `ignore`,
  // read.
  std::vector<QuantizationGroup> groups;
  std::vector<ModuleTarget> ignored;
  QuantizationScheme kv_cache;  // that the checkpoint asks for and that duo does not take from it; bits 0: none

  bool mixed() const { return !groups.empty(); }
  bool operator==(const QuantizationConfig&) const = default;
};

// `json` is the text of config.json's object; `file` is what errors call it. A quant_method or scheme that has no place
// in the struct is refused by name.
absl::StatusOr<QuantizationConfig> ParseQuantizationConfig(std::string_view json, const std::string& file);

// What a config of groups says of one module ("model.layers.0.mlp.up_proj"): the group's scheme as that of a config of
// one; kind kNone where the module is ignored or no group's target names it. Other configs say the same of all.
QuantizationConfig ConfigOf(const QuantizationConfig& config, std::string_view module);

// "model.layers.0.mlp.up_proj" of its weight's name.
std::string_view ModuleOf(std::string_view weight_name);

// Whether one of duo's formats can hold the stored codes; otherwise weights become 16-bit ones unless asked otherwise.
inline bool KeepsCodes(const QuantizationConfig& config) {
  const bool narrow = config.block_cols > 0 && config.block_cols % 16 != 0;  // code_format.h's ScaleBlockFormat
  return config.kind != QuantizationKind::kMxfp4 && !narrow;
}

// Bits of the codes of an MLP's matrices as duo holds them; 16 where they become 16-bit ones, and of GGUF files and
// configs of several groups, whose tensors have types of their own.
inline int StoredBits(const QuantizationConfig& config) {
  if (config.kind == QuantizationKind::kMxfp4) return 4;
  return KeepsCodes(config) && config.weights.bits > 0 ? config.weights.bits : 16;
}

// "compressed-tensors float-quantized, 8-bit float weights per channel" and the like, for messages; of several groups
// each.
std::string Describe(const QuantizationConfig& config);
std::string Describe(const QuantizationScheme& scheme);  // "8-bit float per channel"

}  // namespace duo
