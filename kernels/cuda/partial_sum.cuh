// The last sum of an attention kernel that cuts keys into parts: a block adds up the partial results (o, lse) of one
// (row, query head).
#pragma once

#include <type_traits>

#include "kernels/cuda/primitives.cuh"

namespace duo::cuda {

constexpr int kMergeWarps = 16;

// Where a kernel's partial results lie.
struct Partials {
  const float* o;    // [place][head_dim]
  const float* lse;  // [place]
};

// Partial i of `count` lies at place_of(i). For a block of kMergeWarps warps, whose threads all call it: warps take
// partials in turn, then warps are added up in turn, so that the sum's order depends on `count` alone. Loads of kBatch
// partials of a warp are under way together. to: head_dim values; to_lse may be null. Without partials, 0 and -inf.
template <int kHeadDim, int kBatch, typename PlaceOf>
__device__ __forceinline__ void MergePartials(const Partials& from, int count, PlaceOf&& place_of, bf16* to,
                                              float* to_lse) {
  constexpr int kEach = kHeadDim / 32;
  using Vector = typename std::conditional<kEach == 4, float4, float2>::type;
  __shared__ float outs[kMergeWarps][kHeadDim];
  __shared__ float tops[kMergeWarps], sums[kMergeWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float top = -INFINITY, sum = 0, o[kEach] = {};
  for (int base = warp; base < count; base += kBatch * kMergeWarps) {
    float lse[kBatch];
    Vector x[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int index = base + i * kMergeWarps;
      const int64_t at = place_of(index);
      lse[i] = index < count ? from.lse[at] : -INFINITY;
      x[i] = index < count ? reinterpret_cast<const Vector*>(from.o + at * kHeadDim)[lane] : Vector{};
    }
    float highest = top;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) highest = fmaxf(highest, lse[i]);
    if (highest == -INFINITY) continue;
    const float factor = Exp2((top - highest) * kLog2e);
    top = highest;
    sum *= factor;
#pragma unroll
    for (int j = 0; j < kEach; ++j) o[j] *= factor;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const float weight = Exp2((lse[i] - highest) * kLog2e);
      sum += weight;
      const float* values = reinterpret_cast<const float*>(&x[i]);
#pragma unroll
      for (int j = 0; j < kEach; ++j) o[j] += weight * values[j];
    }
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j) outs[warp][lane * kEach + j] = o[j];
  if (lane == 0) tops[warp] = top, sums[warp] = sum;
  __syncthreads();
  float highest = -INFINITY, total = 0;
#pragma unroll
  for (int i = 0; i < kMergeWarps; ++i) highest = fmaxf(highest, tops[i]);
  if (highest > -INFINITY) {
#pragma unroll
    for (int i = 0; i < kMergeWarps; ++i) total += sums[i] * Exp2((tops[i] - highest) * kLog2e);
  }
  if (threadIdx.x < kHeadDim) {
    float x = 0;
    if (highest > -INFINITY) {
#pragma unroll
      for (int i = 0; i < kMergeWarps; ++i) x += outs[i][threadIdx.x] * Exp2((tops[i] - highest) * kLog2e);
      x /= total;
    }
    to[threadIdx.x] = ToBf16(x);
  }
  if (threadIdx.x == 0 && to_lse != nullptr) *to_lse = highest == -INFINITY ? -INFINITY : highest + logf(total);
}

}  // namespace duo::cuda
