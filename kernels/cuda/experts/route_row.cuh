// A row's experts from its logits, by a warp.
#pragma once

#include "kernels/cuda/primitives.cuh"
#include "kernels/experts.h"

namespace duo::cuda {

// Numbers that compare as floats do, NaN as -infinity and -0 as 0; and back.
__device__ __forceinline__ uint32_t KeyOf(float x) {
  const uint32_t bits = __float_as_uint(isnan(x) ? -INFINITY : x + 0.0f);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float OfKey(uint32_t key) {
  return __uint_as_float(key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}

// values[i]: the logit of expert lane + 32 i, where there is one. row: of `out`.
template <int kEach>
__device__ __forceinline__ void RouteRow(const Routing& out, int64_t row, const float (&values)[kEach], int experts,
                                         bool normalised) {
  static_assert(kMostChosenExperts <= 64);
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = threadIdx.x % 32;
  uint32_t keys[kEach];  // 0, below any number's: not there, or chosen
  bool nan = false;
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const bool here = lane + 32 * i < experts;
    nan |= here && isnan(values[i]);
    keys[i] = here ? KeyOf(values[i]) : 0;
    most = max(most, keys[i]);
  }
  const float top = OfKey(__reduce_max_sync(kAll, most));
  float all = 0, sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) all += keys[i] != 0 ? expf(OfKey(keys[i]) - top) : 0.0f;
  all = WarpSum(all);
  // Lane l keeps the l-th place and the one 32 behind it.
  int32_t ids[2] = {};
  float shares[2] = {};
  for (int j = 0; j < out.chosen; ++j) {
    most = 0;
    int mine = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (keys[i] > most) most = keys[i], mine = i;
    }
    const uint32_t best = __reduce_max_sync(kAll, most);
    const int expert = __reduce_min_sync(kAll, most == best ? lane + 32 * mine : kMostExperts);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (expert == lane + 32 * i) keys[i] = 0;
    }
    const float share = expf(OfKey(best) - top);
    sum += share;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (j == lane + 32 * half) ids[half] = expert, shares[half] = share;
    }
  }
  if (!normalised) sum = all;
  if (__any_sync(kAll, nan)) sum = NAN;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int j = lane + 32 * half;
    if (j >= out.chosen) break;
    out.experts[row * out.chosen + j] = ids[half];
    out.weights[row * out.chosen + j] = shares[half] / sum;
  }
}

}  // namespace duo::cuda
