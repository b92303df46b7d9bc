#include "kernels/cpu/weight_decode.h"

#include <algorithm>
#include <cmath>

#include "kernels/scale_blocks.h"

namespace duo::cpu {

Code CodeOf(const Weight& w) {
  switch (w.dtype) {
    case DType::kF32:
      return Code::kF32;
    case DType::kF16:
      return Code::kF16;
    case DType::kBF16:
      return Code::kBF16;
    case DType::kF8E4M3:
      return Code::kF8;
    case DType::kI8:
      return Code::kI8;
    case DType::kI4:
      return w.table == CodeTable::kNone ? Code::kU4 : w.table == CodeTable::kIq4 ? Code::kIq4 : Code::kE2M1;
    case DType::kI32:
      break;
  }
  DUO_CHECK_MSG(false, Name(w.dtype));
  return Code::kF32;
}

void DecodeWeightRow(const Weight& w, int64_t row, int64_t first, int64_t count, float* out) {
  const SimdKernels& simd = Simd();
  const uint8_t* codes = static_cast<const uint8_t*>(w.data) + Bytes(w.dtype, row * w.cols + first);
  if (w.group == 0) {
    simd.decode(CodeOf(w), codes, w.scales != nullptr ? w.scales[row] : 1.0f, 0.0f, count, out);
    return;
  }
  if (HasScaleBlocks(w)) {
    const float* scales = ScalesOfRow(w, row);
    for (int64_t c = first, end = first + count; c < end;) {
      const int64_t next = std::min(end, (c / w.group + 1) * w.group);
      simd.decode(CodeOf(w), codes + (c - first), scales[c / w.group], 0.0f, next - c, out + (c - first));
      c = next;
    }
    return;
  }
  for (int64_t c = first, end = first + count; c < end;) {
    const int64_t next = std::min(end, (c / w.group + 1) * w.group);
    float scale = 0, min = 0;
    if (w.exponents != nullptr) {
      scale = std::ldexp(1.0f, static_cast<int>(w.exponents[row * (w.cols / w.group) + c / w.group]) - 127);
    } else {
      const uint16_t* p = w.groups + 2 * (row * (w.cols / w.pair_cols()) + c / w.pair_cols());
      scale = ToFloat(f16{p[0]});
      min = ToFloat(f16{p[1]});
    }
    if (w.subs != nullptr) {
      const int8_t* sub = w.subs + 2 * (row * (w.cols / w.group) + c / w.group);
      scale *= static_cast<float>(sub[0]);
      min *= static_cast<float>(sub[1]);
    }
    simd.decode(CodeOf(w), codes + Bytes(w.dtype, c - first), scale, min, next - c, out + c - first);
    c = next;
  }
}

WeightPanel PanelOf(const Weight& w, const PanelRange& p, void* room) {
  if (w.dtype == DType::kF32) return {static_cast<const float*>(w.data) + p.first_row * w.cols + p.first_col, w.cols};
  float* decoded = static_cast<float*>(room);
  for (int64_t r = 0; r < p.rows; ++r) DecodeWeightRow(w, p.first_row + r, p.first_col, p.cols, decoded + r * p.cols);
  return {decoded, p.cols};
}

}  // namespace duo::cpu
