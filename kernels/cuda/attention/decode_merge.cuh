// Merging the partial attention of a block's warps by way of shared memory, to a normalised output and its lse
// (kernels/attention.h).
#pragma once

#include "kernels/cuda/attention/decode_tile.cuh"

namespace duo::cuda {

// All threads of a block, or of its first kWarps warps, which leave the others alone.
struct AllWarps {
  __device__ __forceinline__ void Sync() const { __syncthreads(); }
};
template <int kWarps>
struct FirstWarps {
  __device__ __forceinline__ void Sync() const { asm volatile("bar.sync 1, %0;" ::"n"(32 * kWarps) : "memory"); }
};

// Merges kWarps warps, which are those that `together` syncs. write(column, channel, value) and write_lse(column, lse)
// are called once for each. shared: kWarps * kN * 8 * (kHeadDim + 2) floats.
template <int kWarps, KvFormat kFormat, int kHeadDim, int kN, typename Write, typename WriteLse,
          typename Together = AllWarps>
__device__ __forceinline__ void MergeWarps(WarpAttention<kFormat, kHeadDim, kN>& warp, float* shared, Write&& write,
                                           WriteLse&& write_lse, const Together& together = {}) {
  constexpr int kCols = 8 * kN;
  float* tops = shared;                 // [warp][column]
  float* sums = tops + kWarps * kCols;  // [warp][column]
  float* outs = sums + kWarps * kCols;  // [warp][column][channel]
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  warp.Finish();
  together.Sync();  // the buffer may still be read from the segment before
  if (g == 0) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        tops[w * kCols + 8 * n + 2 * c + j] = warp.top[n][j];
        sums[w * kCols + 8 * n + 2 * c + j] = warp.sum[n][j];
      }
    }
  }
  together.Sync();
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int col = 8 * n + 2 * c + j;
      float top = -1e30f;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) top = fmaxf(top, tops[i * kCols + col]);
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) {
        sum = __fmaf_rn(sums[i * kCols + col], Exp2(tops[i * kCols + col] - top), sum);
      }
      const float factor = sum > 0 ? Exp2(warp.top[n][j] - top) / sum : 0.0f;
      if (w == 0 && g == 0) write_lse(col, sum > 0 ? (top + log2f(sum)) * kLn2 : -INFINITY);
#pragma unroll
      for (int m = 0; m < kHeadDim / 16; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int channel = ChannelOfV<kFormat, kHeadDim>(2 * m + h, g);
          outs[(w * kCols + col) * kHeadDim + (channel ^ (8 * c))] = warp.o[n][m][j + 2 * h] * factor;
        }
      }
    }
  }
  together.Sync();
  for (int i = threadIdx.x; i < kCols * kHeadDim; i += kWarps * 32) {
    const int col = i / kHeadDim, channel = i % kHeadDim;
    float x = 0;
#pragma unroll
    for (int v = 0; v < kWarps; ++v) x += outs[(v * kCols + col) * kHeadDim + (channel ^ (8 * (col % 8 / 2)))];
    write(col, channel, x);
  }
}
template <int kWarps, int kHeadDim, int kN>
constexpr size_t MergeSharedBytes() {
  return size_t{kWarps} * kN * 8 * (kHeadDim + 2) * sizeof(float);
}

}  // namespace duo::cuda
