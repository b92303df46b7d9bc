#include "runtime/weights/cut_unit.h"

#include <algorithm>

#include "parallel/shard.h"
#include "runtime/weights/code_format.h"
#include "runtime/weights/compressed_tensors_config.h"
#include "runtime/weights/quantize.h"

namespace duo {
namespace {

// Multiples of which no group of columns is cut at.
int64_t GroupedUnit(const QuantizationConfig& stored, const AskedMatrices& asked, int64_t columns) {
  const bool as_stored = !asked.type.has_value();
  // Of fp8 in blocks the last rank's last block may be cut off.
  int64_t fp8_group = !as_stored && *asked.type == DType::kF8E4M3 ? asked.int8_group : 0;
  if (as_stored && stored.block_cols > 0) {
    const std::optional<CodeFormat> blocks = ScaleBlockFormat(stored.block_rows, stored.block_cols);
    fp8_group = blocks.has_value() ? blocks->group : 1;
  }
  // Packed codes of 8 bits with a scale for each row are held in groups, too.
  const bool packed = stored.kind == QuantizationKind::kGptq || stored.format == "pack-quantized";
  const bool has_groups =
      stored.kind == QuantizationKind::kGguf ||
      (stored.weights.bits == 8 && (packed || stored.weights.granularity == QuantizationGranularity::kGroup));
  const bool int4 = as_stored ? stored.weights.bits == 4 : *asked.type == DType::kI4;
  return asked.mixed                               ? std::max<int64_t>(GroupUnit(columns), kLeastInt4Group)
         : fp8_group > 0                           ? fp8_group
         : int4                                    ? Int4Group(columns)
         : !as_stored && *asked.type == DType::kI8 ? asked.int8_group
         : as_stored && has_groups                 ? GroupUnit(columns)
                                                   : 1;
}

}  // namespace

int64_t CutUnit(const QuantizationConfig& stored, const AskedMatrices& asked, int64_t columns, int world) {
  if (columns == 0) return 1;
  const bool as_stored = !asked.type.has_value();
  if (as_stored && stored.mixed()) {
    // Powers of two, so that the largest is a multiple of all.
    int64_t unit = 1;
    for (const QuantizationGroup& group : stored.groups) {
      unit = std::max(unit, GroupedUnit(AsConfig(group), asked, columns));
    }
    return std::max<int64_t>(PreferredGranularity(columns, world), unit);
  }
  return std::max<int64_t>({PreferredGranularity(columns, world), GroupedUnit(stored, asked, columns), 1});
}

}  // namespace duo
