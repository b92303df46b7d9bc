// Where ranks cut the columns of an MLP, or of each expert. Pure, any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/base/dtype.h"
#include "runtime/weights/quantization_config.h"

namespace duo {

constexpr int kLeastInt4Group = 32;  // columns

// What is asked of the MLPs' matrices; type unset: as stored.
struct AskedMatrices {
  std::optional<DType> type;
  int int8_group = 0;  // 0: a scale a row; of fp8: sides of a block
  bool mixed = false;  // random ones as a GGUF file's or MXFP4: in groups, whatever the type
};

// Multiples of which `world` ranks cut so many columns at. Groups must not change with the number of ranks, so these
// are the bounds of the largest; a GGUF file has blocks of 256.
int64_t CutUnit(const QuantizationConfig& stored, const AskedMatrices& asked, int64_t columns, int world);

}  // namespace duo
