// One element of a Weight of any format, as ops.h defines it. For embedding rows and for dequantising to scratch.
#pragma once

#include "kernels/ops.h"

namespace duo::cuda {

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
      return F8ToFloat(static_cast<const uint8_t*>(w.data)[i]) * w.scales[row];
    case DType::kI8:
      return static_cast<const int8_t*>(w.data)[i] * w.scales[row];
    case DType::kI4: {
      const uint8_t byte = static_cast<const uint8_t*>(w.data)[i / 2];
      const uint16_t* pair = w.groups + (row * (w.cols / w.group) + col / w.group) * 2;
      return fmaf(static_cast<float>(i % 2 == 0 ? byte & 15 : byte >> 4), ToFloat(f16{pair[0]}), ToFloat(f16{pair[1]}));
    }
    case DType::kI32:
      break;
  }
  return 0.0f;
}

}  // namespace duo::cuda
