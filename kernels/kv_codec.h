// KV codecs: how one head's key or value vector of one token is stored. One source for CPU and CUDA, and the same bytes
// on both: parameters are rounded to f16 first, codes are made with the rounded parameters, rounding is to nearest
// even, and no expression can be contracted (every product feeds a rounding, never a sum).
//
//   f32   the values                                          4 d bytes          (CPU only)
//   bf16  the values, rounded                                 2 d
//   fp8   e4m3 of x / scale, scale = f16(absmax / 448)        d + 2
//   int8  round((x - min) / scale), scale = f16(range / 255)  d + 4              asymmetric, min as f16
//   int4  round((x - min) / scale), scale = f16(range / 15)   d / 2 + 4          even index in the low nibble
//
// Decoding is code * scale (+ min, fused). Keys are coded after RoPE, and int4 keys after a Hadamard rotation, too
// (kernels/hadamard.h); the queries that meet rotated keys are rotated likewise. Pure functions, thread-safe.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/base/dtype.h"

namespace duo {

enum class KvFormat : uint8_t { kF32, kBF16, kFp8, kInt8, kInt4 };

constexpr KvFormat kKvFormats[] = {KvFormat::kF32, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4};

// Calls visit with std::integral_constant<KvFormat, format> where `format` is one of kFormats, so that code compiled
// for each format is chosen where it is launched. Was it one of them?
template <KvFormat... kFormats, typename Visit>
bool VisitKvFormat(KvFormat format, const Visit& visit) {
  return ((format == kFormats && (visit(std::integral_constant<KvFormat, kFormats>()), true)) || ...);
}

constexpr const char* Name(KvFormat f) {
  switch (f) {
    case KvFormat::kF32:
      return "f32";
    case KvFormat::kBF16:
      return "bf16";
    case KvFormat::kFp8:
      return "fp8";
    case KvFormat::kInt8:
      return "int8";
    case KvFormat::kInt4:
      return "int4";
  }
  return "?";
}

// Bytes of the codes and of the parameters of one vector of `d` elements (d even).
DUO_HD constexpr int KvCodeBytes(KvFormat f, int d) {
  switch (f) {
    case KvFormat::kF32:
      return 4 * d;
    case KvFormat::kBF16:
      return 2 * d;
    case KvFormat::kFp8:
    case KvFormat::kInt8:
      return d;
    case KvFormat::kInt4:
      return d / 2;
  }
  return 0;
}
DUO_HD constexpr int KvParamBytes(KvFormat f) {
  switch (f) {
    case KvFormat::kF32:
    case KvFormat::kBF16:
      return 0;
    case KvFormat::kFp8:
      return 2;
    case KvFormat::kInt8:
    case KvFormat::kInt4:
      return 4;
  }
  return 0;
}
// Are keys rotated by kernels/hadamard.h before they are coded?
DUO_HD constexpr bool KvRotatesKeys(KvFormat f) { return f == KvFormat::kInt4; }
// K and V of one token and head.
DUO_HD constexpr int KvTokenBytes(KvFormat f, int d) { return 2 * (KvCodeBytes(f, d) + KvParamBytes(f)); }

// The parameters of a coded vector: value = code * scale + min (fp8: min is 0 and not stored).
struct KvParams {
  f16 scale;
  f16 min;
};

// Beyond f16's range parameters saturate, so that decoding is finite for every finite vector.
DUO_HD inline f16 KvParam(float x) { return ToF16(fminf(fmaxf(x, -65504.0f), 65504.0f)); }

// From the vector's extremes; the caller finds them in whatever order suits it (min and max are exact in any order).
DUO_HD inline KvParams KvParamsFor(KvFormat f, float lowest, float highest) {
  if (f == KvFormat::kFp8) {
    const float absmax = fmaxf(fabsf(lowest), fabsf(highest));
    return {KvParam(absmax / 448.0f), f16{0}};
  }
  const float steps = f == KvFormat::kInt8 ? 255.0f : 15.0f;
  const f16 min = KvParam(lowest);
  return {KvParam((highest - ToFloat(min)) / steps), min};
}

// What encoding divides by; 0 for a constant vector, whose codes are then all 0.
DUO_HD inline float KvInverseScale(KvParams p) {
  const float scale = ToFloat(p.scale);
  return scale > 0.0f ? 1.0f / scale : 0.0f;
}

// One element's code: a byte for fp8 and int8, a nibble for int4. `inverse` = KvInverseScale(p).
DUO_HD inline uint8_t KvEncode(KvFormat f, float x, KvParams p, float inverse) {
  if (f == KvFormat::kFp8) return FloatToF8(x * inverse);
  const float top = f == KvFormat::kInt8 ? 255.0f : 15.0f;
  const float code = rintf((x - ToFloat(p.min)) * inverse);
  return static_cast<uint8_t>(fminf(fmaxf(code, 0.0f), top));
}
DUO_HD inline float KvDecode(KvFormat f, uint8_t code, KvParams p) {
  if (f == KvFormat::kFp8) return F8ToFloat(code) * ToFloat(p.scale);
  return fmaf(static_cast<float>(code), ToFloat(p.scale), ToFloat(p.min));
}

}  // namespace duo
