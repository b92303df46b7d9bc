// Vectors of DUO_LANES floats: the few operations that the kernels need, by GCC vector extensions, with intrinsics only
// where those have no words (fused multiply-add, f16). Included by the simd_*.cc files only, which set DUO_LANES.
// Everything has internal linkage: see kernels/cpu/simd.h.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#ifdef __ARM_NEON
#include <arm_neon.h>
#endif

namespace duo::cpu {
namespace {

constexpr int kLanes = DUO_LANES;
typedef float F __attribute__((vector_size(4 * DUO_LANES)));
typedef int32_t I __attribute__((vector_size(4 * DUO_LANES)));
typedef uint32_t U __attribute__((vector_size(4 * DUO_LANES)));
typedef uint16_t H __attribute__((vector_size(2 * DUO_LANES)));
typedef uint8_t B __attribute__((vector_size(DUO_LANES)));
typedef int8_t S __attribute__((vector_size(DUO_LANES)));

#define DUO_INLINE inline __attribute__((always_inline))

template <typename V>
DUO_INLINE V LoadAs(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
// Widening, by one instruction: GCC 12 takes __builtin_convertvector apart. It also warns of uninitialised values in
// the plain forms of 512-bit conversions, hence the masked ones, which compile to the same.
DUO_INLINE I Widen(H h) {
#if DUO_LANES == 16
  return (I)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)h);
#elif DUO_LANES == 8
  return (I)_mm256_cvtepu16_epi32((__m128i)h);
#else
  return __builtin_convertvector(h, I);
#endif
}
DUO_INLINE I Widen(B b) {
#if DUO_LANES == 16
  return (I)_mm512_maskz_cvtepu8_epi32(0xffff, (__m128i)b);
#elif DUO_LANES == 8
  return (I)_mm256_cvtepu8_epi32(_mm_loadu_si64(&b));
#else
  return __builtin_convertvector(b, I);
#endif
}
DUO_INLINE I Widen(S s) {
#if DUO_LANES == 16
  return (I)_mm512_maskz_cvtepi8_epi32(0xffff, (__m128i)s);
#elif DUO_LANES == 8
  return (I)_mm256_cvtepi8_epi32(_mm_loadu_si64(&s));
#else
  return __builtin_convertvector(s, I);
#endif
}
DUO_INLINE H WidenHalf(B b) {
#if DUO_LANES == 16
  return (H)_mm256_cvtepu8_epi16((__m128i)b);
#elif DUO_LANES == 8
  return (H)_mm_cvtepu8_epi16(_mm_loadu_si64(&b));
#else
  return __builtin_convertvector(b, H);
#endif
}
template <typename V>
DUO_INLINE void StoreAs(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
DUO_INLINE F Load(const float* p) { return LoadAs<F>(p); }
DUO_INLINE F Splat(float x) { return x - F{}; }
DUO_INLINE I SplatI(int32_t x) { return x - I{}; }

DUO_INLINE F Fma(F a, F b, F c) {
#if DUO_LANES == 16
  return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif DUO_LANES == 8
  return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON) && defined(__aarch64__)
  return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
DUO_INLINE F Max(F a, F b) { return a > b ? a : b; }
DUO_INLINE F Min(F a, F b) { return a < b ? a : b; }

// a0 b0 a1 b1 .. of the lower halves, and of the upper halves.
#if DUO_LANES == 16
#define DUO_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define DUO_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif DUO_LANES == 8
#define DUO_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define DUO_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define DUO_LOW 0, 4, 1, 5
#define DUO_HIGH 2, 6, 3, 7
#endif
DUO_INLINE F InterleaveLow(F a, F b) { return __builtin_shufflevector(a, b, DUO_LOW); }
DUO_INLINE F InterleaveHigh(F a, F b) { return __builtin_shufflevector(a, b, DUO_HIGH); }
#undef DUO_LOW
#undef DUO_HIGH

// Horizontal sum and maximum: halves are folded onto each other.
template <typename Fold>
DUO_INLINE float Reduce(F v, Fold fold) {
  typedef float F4 __attribute__((vector_size(16)));
#if DUO_LANES == 16
  typedef float F8 __attribute__((vector_size(32)));
  const F8 eight = fold(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                        __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
#elif DUO_LANES == 8
  const F eight = v;
#endif
#if DUO_LANES >= 8
  const F4 four =
      fold(__builtin_shufflevector(eight, eight, 0, 1, 2, 3), __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
#else
  const F4 four = v;
#endif
  const F4 two = fold(four, __builtin_shufflevector(four, four, 2, 3, 2, 3));
  return fold(two, __builtin_shufflevector(two, two, 1, 1, 1, 1))[0];
}
DUO_INLINE float Sum(F v) {
  return Reduce(
      v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}
DUO_INLINE float Largest(F v) {
  return Reduce(
      v, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
}

// f16 to f32, exact.
DUO_INLINE F FromF16(H h) {
#if DUO_LANES == 16
  return (F)_mm512_maskz_cvtph_ps(0xffff, (__m256i)h);
#elif DUO_LANES == 8
  return (F)_mm256_cvtph_ps((__m128i)h);
#else
  const U u = __builtin_convertvector(h, U), sign = (u & 0x8000u) << 16, rest = u & 0x7fffu;
  const U shifted = rest << 13;
  const U normal = shifted + (112u << 23), special = shifted + (224u << 23);
  // A subnormal's mantissa below an implicit one, less that one.
  const U small = (U)((F)(shifted + (113u << 23)) - (F)(U{} + (113u << 23)));
  const U magnitude = rest < 0x400u ? small : rest >= 0x7c00u ? special : normal;
  return (F)(magnitude | sign);
#endif
}

// table[i], 0 <= i < 16. Of 16 lanes, whatever i, by its low four bits.
DUO_INLINE F LookUp(const float table[16], I i) {
#if DUO_LANES == 16
  return (F)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)i, (__m512)Load(table));
#elif DUO_LANES == 8
  const F low = (F)_mm256_permutevar8x32_ps((__m256)Load(table), (__m256i)i);
  const F high = (F)_mm256_permutevar8x32_ps((__m256)Load(table + 8), (__m256i)i);
  return i > 7 ? high : low;
#else
  F values;
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = table[i[lane]];
  return values;
#endif
}

// exp(x) to about one unit in the last place, for x <= 88; 0 below -87. x = n ln 2 + r, |r| <= ln 2 / 2, and exp(r) by
// its Taylor polynomial of degree 7, whose error there is below 2^-27.
DUO_INLINE F Exp(F x) {
  const F clamped = Max(x, Splat(-88.0f));
  const F magic = Splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const F shifted = Fma(clamped, Splat(1.44269504f), magic), n = shifted - magic;
  F r = Fma(n, Splat(-0.693145752f), clamped);  // ln 2 in two parts, the first with trailing zeros
  r = Fma(n, Splat(-1.42860677e-6f), r);
  F p = Splat(1.98412698e-4f);
  p = Fma(p, r, Splat(1.38888889e-3f));
  p = Fma(p, r, Splat(8.33333333e-3f));
  p = Fma(p, r, Splat(4.16666667e-2f));
  p = Fma(p, r, Splat(1.66666667e-1f));
  p = Fma(p, r, Splat(0.5f));
  p = Fma(p, r, Splat(1.0f));
  p = Fma(p, r, Splat(1.0f));
  const F scale = (F)(((I)shifted + (127 - 0x4b400000)) << 23);  // 2^n, from the integer in shifted's low bits
  return x < Splat(-87.0f) ? F{} : p * scale;
}

}  // namespace
}  // namespace duo::cpu
