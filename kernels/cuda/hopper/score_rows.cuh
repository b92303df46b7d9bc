// What Hopper's attention kernels share: a block's barriers, the stages of a ring of tiles, and a warp group's 64 rows
// of scores, their softmax and their output.
#pragma once

#include "kernels/cuda/hopper/hopper_ptx.cuh"
#include "kernels/kv_layout.h"

namespace duo::cuda {

constexpr int kTileKeys = 128;
static_assert(kTileKeys == kPageTokens);

// Which stage of a ring of kStages comes next, and in which phase.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void Next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

// The barriers of a block that both kernels have, as shared addresses. What follows at Tile(0) are those of their
// rings.
struct BlockBarriers {
  uint32_t base;
  __device__ uint32_t QFull() const { return base; }
  __device__ uint32_t QEmpty() const { return base + 8; }
  __device__ uint32_t Cleared() const { return base + 16; }
  __device__ uint32_t ItemFull(int i) const { return base + 24 + 8 * i; }
  __device__ uint32_t ItemEmpty(int i) const { return base + 40 + 8 * i; }
  __device__ uint32_t Tile(int i) const { return base + 56 + 8 * i; }
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// By each thread that has copied its part of an item's queries: the products may read them when all have said so.
__device__ __forceinline__ void QueriesCopied(const BlockBarriers& barriers) {
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  SharedStoresFence();
  BarrierArrive(barriers.QFull());
}

// Begins s = Q K^T with a tile of keys at k_tile. q: the operand of the warp group's 64 rows; kHalfQ: bytes from a
// row's first 64 channels to the next.
template <int kHeadDim, uint32_t kHalfQ, Half16 kType = Half16::kBF16>
__device__ __forceinline__ void BeginScores(float (&s)[64], uint64_t q, uint32_t k_tile) {
  const uint64_t k = Operand(k_tile, 1024, 16);
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const uint64_t a = Ahead(q, step / 4 * kHalfQ + step % 4 * 32);
    const uint64_t b = Ahead(k, step / 4 * (kTileKeys * 128) + step % 4 * 32);
    if (step == 0) {
      WgmmaShared<false, kType>(s, a, b);
    } else {
      WgmmaShared<true, kType>(s, a, b);
    }
  }
  WgmmaCommit();
}
#endif

// A computing warp group's state: thread (g, c) of a warp has rows g and g + 8 of the warp's 16, and of each eight
// columns 2 c and 2 c + 1.
template <int kHeadDim>
struct ScoreRows {
  float o[kHeadDim / 2];
  float s[64];
  uint32_t p[32];
  float top[2], sum[2];

  __device__ __forceinline__ void Reset() {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) o[i] = 0;
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }
  // Hides columns outside [low, high] of the two rows.
  __device__ __forceinline__ void Mask(const int (&low)[2], const int (&high)[2], int c) {
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      const int column = i / 4 * 8 + 2 * c + i % 2, row = i / 2 % 2;
      if (column < low[row] || column > high[row]) s[i] = -INFINITY;
    }
  }
  // s -> exp2(scale * (s - top) + lift), the row's new top included; factor: what was summed before is to be scaled by.
  __device__ __forceinline__ void Softmax(float scale, float (&factor)[2], float lift = 0) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float high[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) high[i] = fmaxf(s[4 * i + 2 * row], s[4 * i + 2 * row + 1]);
#pragma unroll
      for (int i = 4; i < 16; ++i) {
        high[i % 4] = fmaxf(high[i % 4], fmaxf(s[4 * i + 2 * row], s[4 * i + 2 * row + 1]));
      }
      float highest = fmaxf(fmaxf(high[0], high[1]), fmaxf(high[2], high[3]));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
      highest = fmaxf(highest, top[row]);
      const float reference = highest == -INFINITY ? 0.0f : highest;
      const float offset = reference * scale - lift;
      factor[row] = Exp2((top[row] - reference) * scale);  // exactly 1 where the top stays
      top[row] = highest;
      float add[4] = {};
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        float &a = s[4 * i + 2 * row], &b = s[4 * i + 2 * row + 1];
        a = Exp2(fmaf(a, scale, -offset));
        b = Exp2(fmaf(b, scale, -offset));
        add[i % 4] += a + b;
      }
      sum[row] = sum[row] * factor[row] + ((add[0] + add[1]) + (add[2] + add[3]));
    }
  }
  // A branch that is never taken and needs every exponential: without it the compiler moves them behind the wait for
  // the product that they should run beside.
  __device__ __forceinline__ void ExponentialsDone() {
    if (sum[0] + sum[1] < 0) asm volatile("trap;");
  }
  template <Half16 kType = Half16::kBF16>
  __device__ __forceinline__ void Pack() {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      p[i] = kType == Half16::kBF16 ? PackBf16(s[2 * i], s[2 * i + 1]) : PackF16(s[2 * i], s[2 * i + 1]);
    }
  }
  __device__ __forceinline__ void Rescale(const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) o[i] *= factor[i / 2 % 2];
  }
};

}  // namespace duo::cuda
