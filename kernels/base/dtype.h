// Element types and their conversions to and from f32, one source for host and device code. All conversions round to
// nearest even; f16 and bf16 keep infinities and NaN. Pure functions, thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define DUO_HD __host__ __device__
#else
#define DUO_HD
#endif

namespace duo {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity; largest value 448
  kI8,
  kI4,  // two to a byte, the element of even index in the low nibble
  kI32,
};

constexpr int Bits(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kI32:
      return 32;
    case DType::kF16:
    case DType::kBF16:
      return 16;
    case DType::kF8E4M3:
    case DType::kI8:
      return 8;
    case DType::kI4:
      return 4;
  }
  return 0;
}
constexpr size_t Bytes(DType t, size_t elements) { return elements * Bits(t) / 8; }
constexpr const char* Name(DType t) {
  switch (t) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kF8E4M3:
      return "fp8";
    case DType::kI8:
      return "int8";
    case DType::kI4:
      return "int4";
    case DType::kI32:
      return "int32";
  }
  return "?";
}

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

DUO_HD inline uint32_t FloatBits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
DUO_HD inline float BitsFloat(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

DUO_HD inline float ToFloat(float x) { return x; }
DUO_HD inline float ToFloat(bf16 x) { return BitsFloat(uint32_t{x.bits} << 16); }
DUO_HD inline bf16 ToBf16(float x) {
  const uint32_t u = FloatBits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((u >> 16) | 0x40u)};  // NaN stays NaN
  return bf16{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

DUO_HD inline float ToFloat(f16 h) {
  const uint32_t sign = uint32_t{h.bits & 0x8000u} << 16, exponent = (h.bits >> 10) & 31u, mantissa = h.bits & 1023u;
  if (exponent == 31) return BitsFloat(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in f32
    const float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return BitsFloat(sign | FloatBits(value));
  }
  return BitsFloat(sign | ((exponent + 112) << 23) | (mantissa << 13));
}
DUO_HD inline f16 ToF16(float x) {
  const uint32_t u = FloatBits(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return f16{static_cast<uint16_t>(sign | 0x7e00u)};
  if (a >= 0x477ff000u) return f16{static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to 65536 or more
  if (a < 0x38800000u) {  // below 2^-14: subnormal; adding 0.5 lets the f32 adder round to a multiple of 2^-24
    const uint32_t m = FloatBits(BitsFloat(a) + 0.5f) - 0x3f000000u;
    return f16{static_cast<uint16_t>(sign | m)};
  }
  return f16{static_cast<uint16_t>(sign | ((a + 0xfffu + ((a >> 13) & 1u) - 0x38000000u) >> 13))};
}

// e4m3 without infinities (the "fn" form): saturates at +-448; NaN gives 0x7f.
DUO_HD inline float F8ToFloat(uint8_t c) {
  const uint32_t sign = uint32_t{c & 0x80u} << 24, exponent = (c >> 3) & 15u, mantissa = c & 7u;
  if (exponent == 15 && mantissa == 7) return BitsFloat(0x7fc00000u);
  if (exponent == 0) return BitsFloat(sign | FloatBits(static_cast<float>(mantissa) * 0.001953125f));  // m * 2^-9
  return BitsFloat(sign | ((exponent + 120) << 23) | (mantissa << 20));
}
DUO_HD inline uint8_t FloatToF8(float x) {
  const uint32_t u = FloatBits(x), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  if (a >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);  // 448 and more
  if (a < 0x3c800000u) {  // below 2^-6: multiples of 2^-9; adding 2^14 makes the f32 adder round to them
    const uint32_t m = FloatBits(BitsFloat(a) + 16384.0f) - 0x46800000u;
    return static_cast<uint8_t>(sign | m);
  }
  const uint32_t r = (a + 0x7ffffu + ((a >> 20) & 1u) - 0x3c000000u) >> 20;
  return static_cast<uint8_t>(sign | (r > 0x7eu ? 0x7eu : r));
}

}  // namespace duo
