// Codes to f32 and back, vectorised; the same bytes and values as kernels/base/dtype.h and kernels/kv_codec.h.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd/vector.h"

namespace duo::cpu {
namespace {

// kLanes codes as f32 before scaling. For kF8 the result is the value times 2^-8, see kCodeScale. For nibbles a pair
// of vectors is one unit, see below.
template <Code code>
DUO_INLINE F LoadCodes(const uint8_t* p) {
  if constexpr (code == Code::kF32) {
    return LoadAs<F>(p);
  } else if constexpr (code == Code::kF16) {
    return FromF16(LoadAs<H>(p));
  } else if constexpr (code == Code::kBF16) {
    return (F)((U)Widen(LoadAs<H>(p)) << 16);
  } else if constexpr (code == Code::kF8) {
    // e4m3's bits are those of an f16 whose exponent is 8 lower, subnormals included: the code goes to the upper byte,
    // an arithmetic shift makes room for f16's wider exponent, whose top bit is then the sign's copy and cleared.
    typedef int16_t W __attribute__((vector_size(2 * DUO_LANES)));
    const H h = (H)((W)(WidenHalf(LoadAs<B>(p)) << 8) >> 1) & 0xbfff;
    return FromF16(h | ((H)((h & 0x3f80) == 0x3f80) & 0x7e00));  // the code of all ones is NaN
  } else if constexpr (code == Code::kI8) {
    return __builtin_convertvector(Widen(LoadAs<S>(p)), F);
  } else {
    return __builtin_convertvector(Widen(LoadAs<B>(p)), F);
  }
}
template <Code code>
constexpr float kCodeScale = code == Code::kF8 ? 256.0f : 1.0f;

constexpr int CodeBits(Code code) {
  switch (code) {
    case Code::kF32:
      return 32;
    case Code::kF16:
    case Code::kBF16:
      return 16;
    case Code::kU4:
    case Code::kIq4:
    case Code::kE2M1:
      return 4;
    default:
      return 8;
  }
}

constexpr bool IsNibbles(Code code) { return CodeBits(code) == 4; }

constexpr float kWholeNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr float kIq4Numbers[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr float kE2M1Numbers[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// 2 * kLanes nibbles: the even elements and the odd ones.
struct Nibbles {
  F even, odd;
};
template <Code code>
DUO_INLINE Nibbles LoadNibbles(const uint8_t* p) {
  const I c = Widen(LoadAs<B>(p));
  if constexpr (code == Code::kU4 && kLanes == 16) {
    return {LookUp(kWholeNumbers, c), LookUp(kWholeNumbers, c >> 4)};  // by the low four bits
  } else if constexpr (code == Code::kU4) {
    return {__builtin_convertvector(c & 15, F), __builtin_convertvector(c >> 4, F)};
  } else {
    const float* table = code == Code::kIq4 ? kIq4Numbers : kE2M1Numbers;
    return {LookUp(table, c & 15), LookUp(table, c >> 4)};
  }
}

// kLanes values, scaled; for nibbles see below. scale holds kCodeScale.
template <Code code>
DUO_INLINE F LoadValues(const uint8_t* p, F scale, F min) {
  const F v = LoadCodes<code>(p);
  if constexpr (code == Code::kU8 || code == Code::kI8) return Fma(v, scale, min);
  if constexpr (code == Code::kF8) return v * scale;
  return v;
}
// 2 * kLanes values of nibbles, in their order.
template <Code code>
DUO_INLINE void LoadNibbleValues(const uint8_t* p, F scale, F min, F values[2]) {
  const Nibbles n = LoadNibbles<code>(p);
  const F even = Fma(n.even, scale, min), odd = Fma(n.odd, scale, min);
  values[0] = InterleaveLow(even, odd);
  values[1] = InterleaveHigh(even, odd);
}

// out = codes * scale + min. code * scale is exact in f32 (at most 8 + 11 bits) wherever a minimum is added, so fusing
// changes nothing.
template <Code code>
void DecodeAll(const uint8_t* codes, float scale, float min, int64_t count, float* out) {
  constexpr int kUnit = IsNibbles(code) ? 2 * kLanes : kLanes;
  constexpr int kUnitBytes = kUnit * CodeBits(code) / 8;
  const F s = Splat(scale * kCodeScale<code>), m = Splat(min);
  const auto unit = [&](const uint8_t* p, float* o) __attribute__((always_inline)) {
    if constexpr (IsNibbles(code)) {
      F values[2];
      LoadNibbleValues<code>(p, s, m, values);
      StoreAs(o, values[0]);
      StoreAs(o + kLanes, values[1]);
    } else {
      StoreAs(o, LoadValues<code>(p, s, m));
    }
  };
  int64_t i = 0;
  for (; i + kUnit <= count; i += kUnit) unit(codes + i * CodeBits(code) / 8, out + i);
  if (i < count) {  // the rest through padded copies
    uint8_t padded[kUnitBytes] = {};
    float values[kUnit];
    __builtin_memcpy(padded, codes + i * CodeBits(code) / 8, ((count - i) * CodeBits(code) + 7) / 8);
    unit(padded, values);
    __builtin_memcpy(out + i, values, (count - i) * sizeof(float));
  }
}

void Decode(Code code, const void* codes, float scale, float min, int64_t count, float* out) {
  const uint8_t* p = static_cast<const uint8_t*>(codes);
  switch (code) {
    case Code::kF32:
      __builtin_memmove(out, codes, count * sizeof(float));
      return;
    case Code::kF16:
      return DecodeAll<Code::kF16>(p, scale, min, count, out);
    case Code::kBF16:
      return DecodeAll<Code::kBF16>(p, scale, min, count, out);
    case Code::kF8:
      return DecodeAll<Code::kF8>(p, scale, min, count, out);
    case Code::kI8:
      return DecodeAll<Code::kI8>(p, scale, min, count, out);
    case Code::kU8:
      return DecodeAll<Code::kU8>(p, scale, min, count, out);
    case Code::kU4:
      return DecodeAll<Code::kU4>(p, scale, min, count, out);
    case Code::kIq4:
      return DecodeAll<Code::kIq4>(p, scale, min, count, out);
    case Code::kE2M1:
      return DecodeAll<Code::kE2M1>(p, scale, min, count, out);
  }
}

// The code of kLanes values, in 32-bit lanes.
template <Code code>
DUO_INLINE I EncodeLanes(F x, float inverse, float min) {
  if constexpr (code == Code::kBF16) {
    const U u = (U)x, rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (I)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
  } else if constexpr (code == Code::kF8) {
    const U u = (U)(x * inverse), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
    const U small = (U)((F)a + 16384.0f) - 0x46800000u;  // below 2^-6: the adder rounds to multiples of 2^-9
    U code8 = (a + 0x7ffffu + ((a >> 20) & 1u) - 0x3c000000u) >> 20;
    code8 = code8 > 0x7eu ? U{} + 0x7eu : code8;
    code8 = a < 0x3c800000u ? small : code8;
    code8 = a >= 0x43e00000u ? U{} + 0x7eu : code8;
    code8 = a > 0x7f800000u ? U{} + 0x7fu : code8;
    return (I)(code8 | sign);
  } else {
    const F top = Splat(code == Code::kU8 ? 255.0f : 15.0f);
    F c = (x - min) * inverse;
    c = c > F{} ? c : F{};              // NaN becomes 0 too
    const F magic = Splat(8388608.0f);  // 2^23: adding it rounds to an integer, to even
    return __builtin_convertvector((Min(c, top) + magic) - magic, I);
  }
}

template <Code code>
void EncodeAll(const float* x, float inverse, float min, int64_t count, uint8_t* codes) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t rest = count - i < kLanes ? count - i : kLanes;
    float padded[kLanes] = {};
    __builtin_memcpy(padded, x + i, rest * sizeof(float));
    const I lanes = EncodeLanes<code>(Load(padded), inverse, min);
    if constexpr (code == Code::kBF16) {
      const H h = __builtin_convertvector(lanes, H);
      __builtin_memcpy(codes + 2 * i, &h, 2 * rest);
    } else {
      const B b = __builtin_convertvector(__builtin_convertvector(lanes, H), B);
      if constexpr (code == Code::kU4) {
        for (int64_t j = 0; j < rest; j += 2) codes[(i + j) / 2] = (uint8_t)(b[j] | b[j + 1] << 4);
      } else {
        __builtin_memcpy(codes + i, &b, rest);
      }
    }
  }
}

void Encode(Code code, const float* x, float inverse, float min, int64_t count, void* codes) {
  uint8_t* p = static_cast<uint8_t*>(codes);
  switch (code) {
    case Code::kBF16:
      return EncodeAll<Code::kBF16>(x, inverse, min, count, p);
    case Code::kF8:
      return EncodeAll<Code::kF8>(x, inverse, min, count, p);
    case Code::kU8:
      return EncodeAll<Code::kU8>(x, inverse, min, count, p);
    case Code::kU4:
      return EncodeAll<Code::kU4>(x, inverse, min, count, p);
    default:
      __builtin_trap();
  }
}

void Extremes(const float* x, int64_t count, float* lowest, float* highest) {
  F low = Splat(x[0]), high = low;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    low = Min(Load(x + i), low);
    high = Max(Load(x + i), high);
  }
  float l = low[0], h = high[0];
  for (int j = 1; j < kLanes; ++j) {
    l = low[j] < l ? low[j] : l;
    h = high[j] > h ? high[j] : h;
  }
  for (; i < count; ++i) {
    l = x[i] < l ? x[i] : l;
    h = x[i] > h ? x[i] : h;
  }
  *lowest = l;
  *highest = h;
}

}  // namespace
}  // namespace duo::cpu
