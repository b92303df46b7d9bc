// x as 16-bit fixed point, which codes meet on the integer tensor cores: a row's largest |x|, the unit that follows
// from it, and eight x as the high and the low bytes that operands are made of. Registers of one warp.
#pragma once

#include "kernels/cuda/primitives.cuh"
#include "kernels/ops.h"

namespace duo::cuda {

// The larger magnitudes of `most` and of eight bf16, as bits, two side by side: a NaN is the largest.
__device__ __forceinline__ uint32_t LargerOf(uint32_t most, const uint4& v) {
  constexpr uint32_t kMagnitude = 0x7fff7fffu;
  return __vmaxu2(__vmaxu2(most, __vmaxu2(v.x & kMagnitude, v.y & kMagnitude)),
                  __vmaxu2(v.z & kMagnitude, v.w & kMagnitude));
}
// The bits of the largest of a warp's magnitudes.
__device__ __forceinline__ uint32_t LargestOfWarp(uint32_t most) {
  return __reduce_max_sync(0xffffffffu, max(most & 0xffffu, most >> 16));
}

// The largest |x| of row lane % 4, of the kRows (1 or 4) rows of `chunks` that there are; of a NaN, a NaN.
template <int kRows>
__device__ __forceinline__ float LargestOf(const bf16* x, int64_t stride, int rows, int chunks, int lane) {
  uint32_t most[kRows] = {};
#pragma unroll(4 / kRows)
  for (int i = lane; i < chunks; i += 32) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      most[r] = LargerOf(most[r], *reinterpret_cast<const uint4*>(x + r * stride + i * 8));
    }
  }
  uint32_t mine = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) break;
    const uint32_t largest = LargestOfWarp(most[r]);
    if (lane % 4 == r) mine = largest;
  }
  return __uint_as_float(mine << 16);
}
__device__ __forceinline__ float LargestOf(const bf16* x, int64_t stride, int rows, int chunks, int lane) {
  return rows == 1 ? LargestOf<1>(x, stride, rows, chunks, lane) : LargestOf<4>(x, stride, rows, chunks, lane);
}

constexpr float kMostFixed = 32639;  // so that the high byte, rounded, is 127 at most

// What 1 of the fixed point stands for where the largest |x| is `largest`.
__device__ __forceinline__ float FixedUnit(float largest) {
  constexpr float kTiny = 1e-30f;
  return (largest < kTiny ? kTiny : largest) / kMostFixed;
}
// x as an integer, plus 128 so that its second byte is the rounded high byte: 1.5 * 2^23 rounds it into the low bits.
__device__ __forceinline__ uint32_t Fixed(float x, float factor) {
  return __float_as_uint(fmaf(x, factor, 12582912.0f + 128));
}
// The high and the low bytes of four rounded x: x = 256 * high + low, both signed.
__device__ __forceinline__ void FixedBytes(uint32_t x0, uint32_t x1, uint32_t x2, uint32_t x3, uint32_t& high,
                                           uint32_t& low) {
  const uint32_t a = __byte_perm(x0, x1, 0x5140), b = __byte_perm(x2, x3, 0x5140);
  high = __byte_perm(a, b, 0x7632);
  low = __byte_perm(a, b, 0x5410) ^ 0x80808080u;
}
// Eight x as the codes of `kType` in a row meet them: int8's first and last four; of int4, whose word holds codes 0-7,
// the low nibbles', which are 0, 2, 4, 6, then the high ones'. Returns their sum.
template <DType kType>
__device__ __forceinline__ int FixedEight(const uint4& v, float factor, uint2& high, uint2& low) {
  const uint32_t fixed[8] = {Fixed(LowBf16(v.x), factor),  Fixed(HighBf16(v.x), factor), Fixed(LowBf16(v.y), factor),
                             Fixed(HighBf16(v.y), factor), Fixed(LowBf16(v.z), factor),  Fixed(HighBf16(v.z), factor),
                             Fixed(LowBf16(v.w), factor),  Fixed(HighBf16(v.w), factor)};
  if constexpr (kType == DType::kI4) {
    FixedBytes(fixed[0], fixed[2], fixed[4], fixed[6], high.x, low.x);
    FixedBytes(fixed[1], fixed[3], fixed[5], fixed[7], high.y, low.y);
  } else {
    FixedBytes(fixed[0], fixed[1], fixed[2], fixed[3], high.x, low.x);
    FixedBytes(fixed[4], fixed[5], fixed[6], fixed[7], high.y, low.y);
  }
  const int ones = 0x01010101;
  return 256 * __dp4a(static_cast<int>(high.x), ones, __dp4a(static_cast<int>(high.y), ones, 0)) +
         __dp4a(static_cast<int>(low.x), ones, __dp4a(static_cast<int>(low.y), ones, 0));
}

}  // namespace duo::cuda
