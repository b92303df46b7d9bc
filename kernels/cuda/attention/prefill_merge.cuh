// The kernels that put prefill's partial results together.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/primitives.cuh"

namespace duo::cuda {

// Merges one partial into the running sum of a slice. One warp per (row, query head). First: the sum is empty. Last:
// the result goes to `out`, bf16.
struct MergeArgs {
  float* sum;      // [rows][heads * head_dim]
  float* sum_lse;  // [rows][heads]
  const bf16* part;
  int64_t part_stride, part_head_stride;
  const float* part_lse;  // [heads][part_lse_stride]
  int64_t part_lse_stride;
  int splits;  // partials of the same rows to merge at once
  int64_t part_split_stride, part_lse_split_stride;
  bf16* out;
  int64_t out_stride;
  float* lse;  // [heads][lse_stride] or null
  int64_t lse_stride;
  int64_t rows;
  int heads;
  bool first, last;
};
template <int kHeadDim>
__global__ void MergePartialKernel(MergeArgs a) {
  constexpr int kPairs = kHeadDim / 64;  // of a lane
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (item >= a.rows * a.heads) return;
  const int64_t row = item / a.heads;
  const int head = item % a.heads;
  const bf16* part = a.part + row * a.part_stride + head * a.part_head_stride;
  const float* part_lse = a.part_lse + head * a.part_lse_stride + row;
  float2* sum = reinterpret_cast<float2*>(a.sum + item * kHeadDim);
  uint32_t* out = reinterpret_cast<uint32_t*>(a.out + row * a.out_stride + int64_t{head} * kHeadDim);
  float lse = -INFINITY;
  float2 x[kPairs] = {};
  if (!a.first) {
    lse = a.sum_lse[item];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) x[i] = sum[lane + 32 * i];
  }
  for (int split = 0; split < a.splits; ++split) {
    const MergedWeights weights = MergeWeights(lse, part_lse[split * a.part_lse_split_stride]);
    lse = weights.lse;
    if (weights.b == 0) continue;  // an empty part may hold anything
    const uint32_t* pairs = reinterpret_cast<const uint32_t*>(part + split * a.part_split_stride);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const uint32_t p = pairs[lane + 32 * i];
      x[i].x = weights.a * x[i].x + weights.b * LowBf16(p);
      x[i].y = weights.a * x[i].y + weights.b * HighBf16(p);
    }
  }
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    if (a.last) {
      out[lane + 32 * i] = PackBf16(x[i].x, x[i].y);
    } else {
      sum[lane + 32 * i] = x[i];
    }
  }
  __syncwarp();  // every lane has read the lse
  if (lane != 0) return;
  if (!a.last) a.sum_lse[item] = lse;
  if (a.last && a.lse != nullptr) a.lse[head * a.lse_stride + row] = lse;
}

// The result of rows that see no key here.
static __global__ void EmptyKernel(bf16* out, int64_t stride, float* lse, int64_t rows, int cols, int heads) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < rows * cols) out[i / cols * stride + i % cols] = bf16{0};
  if (lse != nullptr && i < rows * heads) lse[i] = -INFINITY;
}

}  // namespace duo::cuda
