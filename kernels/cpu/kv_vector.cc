#include "kernels/cpu/kv_vector.h"

#include <algorithm>
#include <cstring>

namespace duo::cpu {

void EncodeKvVector(KvFormat format, const float* x, int d, uint8_t* codes, uint8_t* params) {
  if (format == KvFormat::kF32) {
    std::memcpy(codes, x, d * sizeof(float));
    return;
  }
  if (format == KvFormat::kBF16) {
    for (int i = 0; i < d; ++i) {
      const bf16 value = ToBf16(x[i]);
      std::memcpy(codes + 2 * i, &value, 2);
    }
    return;
  }
  const auto [lowest, highest] = std::minmax_element(x, x + d);
  const KvParams p = KvParamsFor(format, *lowest, *highest);
  std::memcpy(params, &p, KvParamBytes(format));
  const float inverse = KvInverseScale(p);
  if (format == KvFormat::kInt4) {
    for (int i = 0; i < d; i += 2) {
      codes[i / 2] = KvEncode(format, x[i], p, inverse) | KvEncode(format, x[i + 1], p, inverse) << 4;
    }
    return;
  }
  for (int i = 0; i < d; ++i) codes[i] = KvEncode(format, x[i], p, inverse);
}

void DecodeKvVector(KvFormat format, const uint8_t* codes, const uint8_t* params, int d, float* x) {
  if (format == KvFormat::kF32) {
    std::memmove(x, codes, d * sizeof(float));
    return;
  }
  if (format == KvFormat::kBF16) {
    for (int i = 0; i < d; ++i) {
      bf16 value;
      std::memcpy(&value, codes + 2 * i, 2);
      x[i] = ToFloat(value);
    }
    return;
  }
  KvParams p{};
  std::memcpy(&p, params, KvParamBytes(format));
  for (int i = 0; i < d; ++i) {
    const uint8_t code = format == KvFormat::kInt4 ? codes[i / 2] >> (i & 1 ? 4 : 0) & 15 : codes[i];
    x[i] = KvDecode(format, code, p);
  }
}

}  // namespace duo::cpu
