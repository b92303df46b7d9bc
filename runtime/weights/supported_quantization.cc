#include "runtime/weights/supported_quantization.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/files/printable.h"
#include "runtime/weights/compressed_tensors_config.h"

namespace duo {

absl::Status CheckSupported(const QuantizationConfig& config, const std::string& file) {
  for (const QuantizationGroup& group : config.groups) {
    if (absl::Status s = CheckSupported(AsConfig(group), absl::StrCat(file, ": ", Printable(group.name))); !s.ok())
      return s;
  }
  const QuantizationScheme& weights = config.weights;
  if (weights.bits == 0) return absl::OkStatus();  // of none, of GGUF files, or of groups
  std::string why;
  switch (config.kind) {
    case QuantizationKind::kNone:
    case QuantizationKind::kGguf:  // each tensor's type was accepted when the file was opened
    case QuantizationKind::kMxfp4:
    case QuantizationKind::kFp8Blocks:
      return absl::OkStatus();
    case QuantizationKind::kCompressedTensors:
      if (config.format == "float-quantized" || config.format == "int-quantized" ||
          config.format == "naive-quantized") {
        if (weights.bits != 8) why = "8 bits are";
        const bool blocks = config.block_cols > 0 && weights.type == QuantizationType::kFloat;
        if (weights.granularity == QuantizationGranularity::kGroup && !blocks)
          why = "scales per tensor or channel, and of floats per block, are";
        if (!weights.symmetric) why = "symmetric weights are";
      } else if (config.format == "pack-quantized") {
        if (weights.type != QuantizationType::kInt || (weights.bits != 4 && weights.bits != 8))
          why = "4 and 8 bit int are";
        if (config.block_cols > 0) why = "scales per channel or in groups of columns are";
      } else {
        why = "float-quantized, int-quantized, naive-quantized and pack-quantized are";
      }
      break;
    case QuantizationKind::kAwq:
      if (!absl::EqualsIgnoreCase(config.format, "gemm")) why = "version gemm is";
      if (weights.bits != 4) why = "4 bits are";
      break;
    case QuantizationKind::kGptq:
      if (config.format != "gptq" && config.format != "gptq_v2") why = "checkpoint_format gptq and gptq_v2 are";
      if (weights.bits != 4 && weights.bits != 8) why = "4 and 8 bits are";
      break;
  }
  if (why.empty()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(file, ": quantisation ", Describe(config), " is not supported: ", why,
                   "; use another edition of the checkpoint, for example in 16 bits with --weights int8 or int4"));
}

}  // namespace duo
