// Products of 16 outputs of an expert and up to 8 slots on tensor cores, from int4 codes in groups of one level: what a
// warp does. A code becomes code - 8, exactly, in bf16, which is what x is, so that sums are of the same numbers as
// anywhere; a group's scale and minimum are applied to its sums in f32.
//
// Codes are the A operand (16 outputs x k), x the B operand (k x 8 slots), so that one slot takes as long as eight, and
// a slot's sums do not depend on the others. Which k sits where in a fragment is free as long as both sides agree: a
// lane has consecutive bytes of two outputs, and x is laid out in shared memory as they meet it.
#pragma once

#include "kernels/base/math.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/ops.h"

namespace duo::cuda {

constexpr int kTileOutputs = 16, kTileSlots = 8;
constexpr int kTileColumns = 128;  // of a block of k: 16 bytes of codes of an output in each lane quarter

// A block is cut into pieces that lie in one group: its four lanes then have one scale and one minimum.
template <int kGroup>
struct CodePieces {
  static constexpr int kPieces = kTileColumns / kGroup, kBytes = 16 / kPieces, kWords = 4 / kPieces;
  static_assert(kPieces == 1 || kPieces == 2 || kPieces == 4);
};

// x of the slots of a product in shared memory: [slot][block][word 0-3][lane quarter] 16 bytes, the eight x that meet a
// word of codes, in the order of its nibbles; and each group's sum of x.
struct SharedSlots {
  uint4* x;
  float* sums;
  int stride, groups;  // 16 bytes, and sums, from one slot to the next

  // A stride that is 4 modulo 8: no two lanes of a quarter warp in one bank.
  __host__ __device__ static int Stride(int64_t cols) { return static_cast<int>(CeilDiv(cols, kTileColumns)) * 16 + 4; }
  static size_t Bytes(int64_t cols, int group, int slots) {
    return static_cast<size_t>(slots) * (16 * Stride(cols) + sizeof(float) * RoundUp(cols / group, 4));
  }
  __device__ SharedSlots(uint4* memory, int64_t cols, int group, int slots)
      : x(memory),
        sums(reinterpret_cast<float*>(memory + slots * Stride(cols))),
        stride(Stride(cols)),
        groups(static_cast<int>(cols / group)) {}
};

// By a whole block: x of `count` slots; row(s) is where slot s's begins. cols: whole groups.
template <int kGroup, typename Row>
__device__ __forceinline__ void StageSlots(const SharedSlots& to, int64_t cols, int count, const Row& row) {
  using P = CodePieces<kGroup>;
  const int chunks = static_cast<int>(cols / 8), all = chunks * count;
  for (int i = threadIdx.x; i < RoundUp(all, 32); i += blockDim.x) {
    const int slot = i / chunks, chunk = i - slot * chunks;
    uint4 v = {};
    if (i < all) v = *reinterpret_cast<const uint4*>(row(slot) + chunk * 8);
    float sum = LowBf16(v.x) + HighBf16(v.x) + LowBf16(v.y) + HighBf16(v.y) + LowBf16(v.z) + HighBf16(v.z) +
                LowBf16(v.w) + HighBf16(v.w);
#pragma unroll
    for (int lanes = 1; lanes < kGroup / 8; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (i >= all) continue;
    constexpr int kGroupChunks = kGroup / 8;
    const int group = chunk / kGroupChunks, in_group = chunk % kGroupChunks;
    const int quarter = in_group / P::kWords, word = group % P::kPieces * P::kWords + in_group % P::kWords;
    const int place = (group / P::kPieces * 4 + word) * 4 + quarter;
    // Of a word's nibbles 0 to 7 one mask takes 0 and 4, then 1 and 5, 2 and 6, 3 and 7.
    to.x[slot * to.stride + place] = {__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632),
                                      __byte_perm(v.y, v.w, 0x5410), __byte_perm(v.y, v.w, 0x7632)};
    if (in_group == 0) to.sums[slot * to.groups + group] = sum;
  }
}

// A warp's codes of 16 outputs and a share of k, kDepth blocks of it under way at once.
template <int kGroup, int kDepth>
class CodeTile {
 public:
  using P = CodePieces<kGroup>;

  // rows: of the weights, the lane's outputs g and g + 8. [first, end): blocks of k. Begins to fetch.
  __device__ __forceinline__ void Start(const Weight& w, const int64_t (&rows)[2], int first, int end) {
    const int c = threadIdx.x % 4;
    first_ = first;
    count_ = end - first;
    groups_ = min(end * P::kPieces, static_cast<int>(w.cols / kGroup)) - first * P::kPieces;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      codes_[h] =
          static_cast<const uint8_t*>(w.data) + rows[h] * (w.cols / 2) + first * (kTileColumns / 2) + c * P::kBytes;
      pairs_at_[h] = reinterpret_cast<const uint32_t*>(w.groups) + rows[h] * (w.cols / kGroup) + first * P::kPieces;
    }
#pragma unroll
    for (int i = 0; i < kDepth; ++i) Fetch(i, i);
    FetchPairs(0);
  }

  // totals: of outputs g (0, 1) and g + 8 (2, 3), slots 2 c and 2 c + 1. slots: there are so many, at least one.
  __device__ __forceinline__ void Multiply(const SharedSlots& x, int first_slot, int slots, float (&totals)[4]) {
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    const uint4* mine = x.x + (first_slot + min(g, slots - 1)) * x.stride + first_ * 16 + c;
    const float* sums[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      sums[j] = x.sums + (first_slot + min(2 * c + j, slots - 1)) * x.groups + first_ * P::kPieces;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) totals[i] = 0;
#pragma unroll 1
    for (int base = 0; base < count_; base += kDepth) {
      uint32_t pairs[2][kPairWords];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < kPairWords; ++i) pairs[h][i] = pairs_[h][i];
      }
      if (base + kDepth < count_) FetchPairs((base + kDepth) * P::kPieces);
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        if (base + i >= count_) break;
#pragma unroll
        for (int piece = 0; piece < P::kPieces; ++piece) {
          const int in_round = i * P::kPieces + piece, group = base * P::kPieces + in_round;
          if (group >= groups_) break;
          float products[4] = {};
#pragma unroll
          for (int j = 0; j < P::kWords; ++j) {
            const int word = piece * P::kWords + j;
            MultiplyWord(words_[i][0][word], words_[i][1][word], mine[((base + i) * 4 + word) * 4], products);
          }
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const uint32_t pair = __shfl_sync(0xffffffffu, pairs[h][in_round / 4], lane / 4 * 4 + in_round % 4);
            const float scale = F16Value(pair), min = fmaf(scale, 8.0f, F16Value(pair >> 16));
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              totals[2 * h + j] += fmaf(scale, products[2 * h + j], min * sums[j][group]);
            }
          }
        }
        Fetch(i, base + kDepth + i);
      }
    }
  }

 private:
  static constexpr int kPairWords = CeilDiv(kDepth * P::kPieces, 4);  // a lane quarter has each fourth of a round's

  __device__ __forceinline__ void Fetch(int i, int block) {
#pragma unroll
    for (int piece = 0; piece < P::kPieces; ++piece) {
      if (block * P::kPieces + piece >= groups_) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        LoadStreaming<P::kBytes>(&words_[i][h][piece * P::kWords],
                                 codes_[h] + (block * P::kPieces + piece) * (kGroup / 2));
      }
    }
  }
  __device__ __forceinline__ void FetchPairs(int first) {
    const int c = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kPairWords; ++i) {
      if (first + 4 * i + c >= groups_) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) LoadStreaming<4>(&pairs_[h][i], pairs_at_[h] + first + 4 * i + c);
    }
  }
  static __device__ __forceinline__ uint32_t Pair(uint32_t word, int i) {
    return Minus136(NibblesPlus128(word >> (4 * i)));
  }
  static __device__ __forceinline__ void MultiplyWord(uint32_t low, uint32_t high, const uint4& x,
                                                      float (&products)[4]) {
    Mma(products, Pair(low, 0), Pair(high, 0), Pair(low, 1), Pair(high, 1), x.x, x.y);
    Mma(products, Pair(low, 2), Pair(high, 2), Pair(low, 3), Pair(high, 3), x.z, x.w);
  }

  const uint8_t* codes_[2];
  const uint32_t* pairs_at_[2];
  int first_, count_, groups_;  // blocks of the share, and its groups
  uint32_t words_[kDepth][2][4];
  uint32_t pairs_[2][kPairWords] = {};
};

}  // namespace duo::cuda
