#include "kernels/cpu/weight_decode.h"

#include <cstring>

namespace duo::cpu {

void DecodeWeightRow(const Weight& w, int64_t row, int64_t first, int64_t count, float* out) {
  const int64_t at = row * w.cols + first;
  switch (w.dtype) {
    case DType::kF32:
      std::memcpy(out, static_cast<const float*>(w.data) + at, count * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = ToFloat(static_cast<const f16*>(w.data)[at + i]);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) out[i] = ToFloat(static_cast<const bf16*>(w.data)[at + i]);
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < count; ++i) {
        out[i] = F8ToFloat(static_cast<const uint8_t*>(w.data)[at + i]) * w.scales[row];
      }
      return;
    case DType::kI8:
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<const int8_t*>(w.data)[at + i] * w.scales[row];
      return;
    case DType::kI4:
      for (int64_t i = 0; i < count; ++i) {
        const int64_t c = first + i;
        const uint8_t byte = static_cast<const uint8_t*>(w.data)[(at + i) / 2];
        const int code = c & 1 ? byte >> 4 : byte & 15;
        const uint16_t* p = w.groups + 2 * (row * (w.cols / w.group) + c / w.group);
        out[i] = std::fma(static_cast<float>(code), ToFloat(f16{p[0]}), ToFloat(f16{p[1]}));
      }
      return;
    case DType::kI32:
      break;
  }
  DUO_CHECK_MSG(false, Name(w.dtype));
}

}  // namespace duo::cpu
