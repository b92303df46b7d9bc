// residual += add, and the RMS norm of the sum, of one row by one block: what AddRmsNorm (kernels/ops.h) does, and the
// sum over ranks that ends in it (parallel/peer_sum_norm.cu). One source for both, so that their bits agree.
#pragma once

#include <cstdint>

#include "kernels/base/bf16_pairs.cuh"

namespace duo::cuda {

constexpr int kNormThreads = 512;
constexpr int kNormVectors = 4;  // 4 x 512 x 4 = rows of up to 8192 stay in registers
// Columns that so many vectors a thread hold.
constexpr int NormColumns(int vectors) { return 4 * kNormThreads * vectors; }

// Over a block of whole warps; a barrier. Once a kernel, for its shared memory is not guarded against a second call.
__device__ __forceinline__ float BlockSum(float x) {
  __shared__ float sums[32];
  x = WarpSum(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  return WarpSum(threadIdx.x % 32 < blockDim.x / 32 ? sums[threadIdx.x % 32] : 0.0f);
}

// A row in vectors of four columns. residual is 16-byte aligned, out 8-byte.
struct NormRow {
  float4* residual;
  uint2* out;  // null: no norm
  const float* weight;
  int dim;  // a multiple of 4
  float eps;
};

// The weights of a thread's vectors. They depend on no earlier kernel, so they may be fetched before the wait for one.
template <int kVectors>
struct NormWeights {
  float4 of[kVectors];

  __device__ __forceinline__ explicit NormWeights(const NormRow& row) {
    const bool vectors = reinterpret_cast<uintptr_t>(row.weight) % 16 == 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = threadIdx.x + i * kNormThreads;
      if (row.out == nullptr || v >= row.dim / 4) continue;
      const float* at = row.weight + 4 * v;
      of[i] = vectors ? *reinterpret_cast<const float4*>(at) : make_float4(at[0], at[1], at[2], at[3]);
    }
  }
};

// residual += added, then the norm. added.Fetch() is called once the row's own loads are on their way, and added.Of(i,
// v) gives the four bf16 for vector v, the thread's i-th. kVectors: that stay in a thread's registers. kLong: rows may
// be longer than those hold; the rest is read again, and Of's i is then kVectors.
template <bool kLong, int kVectors, typename Added>
__device__ __forceinline__ void AddNormRow(const NormRow& row, const NormWeights<kVectors>& weights, Added&& added) {
  const int vectors = row.dim / 4;
  float4 kept[kVectors];
  float sum = 0;
  auto add = [&](float4& x, int i, int v) {
    if (added.nothing()) return;
    const uint2 a = added.Of(i, v);
    x.x += LowBf16(a.x), x.y += HighBf16(a.x), x.z += LowBf16(a.y), x.w += HighBf16(a.y);
    row.residual[v] = x;
  };
  auto square = [&](float4 x) { sum += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w; };
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = threadIdx.x + i * kNormThreads;
    if (v < vectors) kept[i] = row.residual[v];
  }
  added.Fetch();
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = threadIdx.x + i * kNormThreads;
    if (v >= vectors) continue;
    add(kept[i], i, v);
    square(kept[i]);
  }
  if constexpr (kLong) {
    for (int v = threadIdx.x + kVectors * kNormThreads; v < vectors; v += kNormThreads) {
      float4 x = row.residual[v];
      add(x, kVectors, v);
      square(x);
    }
  }
  if (row.out == nullptr) return;
  const float factor = 1.0f / sqrtf(BlockSum(sum) / row.dim + row.eps);
  auto write = [&](int v, float4 x, float4 w) {
    row.out[v] = {PackBf16(x.x * factor * w.x, x.y * factor * w.y), PackBf16(x.z * factor * w.z, x.w * factor * w.w)};
  };
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = threadIdx.x + i * kNormThreads;
    if (v < vectors) write(v, kept[i], weights.of[i]);
  }
  if constexpr (kLong) {
    for (int v = threadIdx.x + kVectors * kNormThreads; v < vectors; v += kNormThreads) {
      const float* w = row.weight + 4 * v;
      write(v, row.residual[v], make_float4(w[0], w[1], w[2], w[3]));
    }
  }
}

}  // namespace duo::cuda
