#include "kernels/cpu/kv_vector.h"

#include <cstring>

#include "kernels/cpu/simd.h"

namespace duo::cpu {

Code CodeOf(KvFormat format) {
  switch (format) {
    case KvFormat::kF32:
      return Code::kF32;
    case KvFormat::kBF16:
      return Code::kBF16;
    case KvFormat::kFp8:
      return Code::kF8;
    case KvFormat::kInt8:
      return Code::kU8;
    case KvFormat::kInt4:
      return Code::kU4;
  }
  return Code::kF32;
}

void EncodeKvVector(KvFormat format, const float* x, int d, uint8_t* codes, uint8_t* params) {
  const SimdKernels& simd = Simd();
  if (format == KvFormat::kF32) {
    std::memcpy(codes, x, d * sizeof(float));
    return;
  }
  if (format == KvFormat::kBF16) {
    simd.encode(Code::kBF16, x, 1.0f, 0.0f, d, codes);
    return;
  }
  float lowest = 0, highest = 0;
  simd.extremes(x, d, &lowest, &highest);
  const KvParams p = KvParamsFor(format, lowest, highest);
  std::memcpy(params, &p, KvParamBytes(format));
  simd.encode(CodeOf(format), x, KvInverseScale(p), ToFloat(p.min), d, codes);
}

void DecodeKvVector(KvFormat format, const uint8_t* codes, const uint8_t* params, int d, float* x) {
  KvParams p{};
  if (params != nullptr) std::memcpy(&p, params, KvParamBytes(format));
  Simd().decode(CodeOf(format), codes, ToFloat(p.scale), ToFloat(p.min), d, x);
}

}  // namespace duo::cpu
