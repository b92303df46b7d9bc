// One element of a Weight of any format, as ops.h defines it. For embedding rows and for dequantising to scratch.
#pragma once

#include "kernels/cuda/linear/code_tables.cuh"
#include "kernels/scale_blocks.h"

namespace duo::cuda {

// Of the group that a column is in.
struct GroupPair {
  float scale, min;
};
__device__ __forceinline__ GroupPair GroupPairOf(const Weight& w, int64_t row, int64_t col) {
  if (w.table == CodeTable::kE2M1) return {PowerOf(w.exponents[row * (w.cols / w.group) + col / w.group]), 0.0f};
  const int64_t pair_cols = w.block > 0 ? w.block : w.group;
  const uint16_t* pair = w.groups + (row * (w.cols / pair_cols) + col / pair_cols) * 2;
  GroupPair of = {ToFloat(f16{pair[0]}), ToFloat(f16{pair[1]})};
  if (w.block > 0) {
    const int8_t* sub = w.subs + (row * (w.cols / w.group) + col / w.group) * 2;
    of.scale *= static_cast<float>(sub[0]);
    of.min *= static_cast<float>(sub[1]);
  }
  return of;
}

__device__ __forceinline__ float WeightValue(const Weight& w, int64_t row, int64_t col) {
  const int64_t i = row * w.cols + col;
  switch (w.dtype) {
    case DType::kF32:
      return static_cast<const float*>(w.data)[i];
    case DType::kF16:
      return ToFloat(static_cast<const f16*>(w.data)[i]);
    case DType::kBF16:
      return ToFloat(static_cast<const bf16*>(w.data)[i]);
    case DType::kF8E4M3:
      return F8ToFloat(static_cast<const uint8_t*>(w.data)[i]) *
             (HasScaleBlocks(w) ? ScalesOfRow(w, row)[col / w.group] : w.scales[row]);
    case DType::kI8:
      if (w.group > 0) {
        const GroupPair pair = GroupPairOf(w, row, col);
        return fmaf(static_cast<float>(static_cast<const int8_t*>(w.data)[i]), pair.scale, pair.min);
      }
      return static_cast<const int8_t*>(w.data)[i] * w.scales[row];
    case DType::kI4: {
      const uint8_t byte = static_cast<const uint8_t*>(w.data)[i / 2];
      const uint32_t code = i % 2 == 0 ? byte & 15 : byte >> 4;
      const GroupPair pair = GroupPairOf(w, row, col);
      const float number = w.table == CodeTable::kNone ? static_cast<float>(code) : TableNumber(w.table, code);
      return fmaf(number, pair.scale, pair.min);
    }
    case DType::kI32:
      break;
  }
  return 0.0f;
}

}  // namespace duo::cuda
