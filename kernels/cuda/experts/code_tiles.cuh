// Products of 16 outputs of an expert and up to 8 slots on tensor cores, from int4 codes in groups of one level: what a
// warp does. A code becomes 128 + code, exactly, in bf16, which is what x is; a group's scale and minimum, and what the
// 128 added, are applied to its sums in f32, where they cost the last bits of 2^-24 * 136 sum |x| at most: little
// against the rounding of outputs to bf16, also with one x 10,000 times the others.
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

// Blocks of k [first, end): a warp's share.
struct TileShare {
  int first, end;
  __device__ TileShare(int64_t cols, int part, int parts) {
    const int blocks = static_cast<int>(CeilDiv(cols, kTileColumns));
    first = blocks * part / parts;
    end = blocks * (part + 1) / parts;
  }
};

// Where a lane's codes and scales of a tile begin in a bank: of its outputs g and g + 8, in units of what the lane has
// of a piece, and in pairs.
struct TilePlace {
  uint32_t codes[2], pairs[2];
};

// A warp's codes of a share of k of one tile after the other, kDepth blocks under way at once.
template <int kGroup, int kDepth>
class CodeTile {
 public:
  using P = CodePieces<kGroup>;

  __device__ __forceinline__ CodeTile(const Weight& w, const TileShare& share)
      : codes_(static_cast<const uint8_t*>(w.data)),
        pairs_of_(reinterpret_cast<const uint32_t*>(w.groups)),
        first_(share.first),
        count_(share.end - share.first),
        groups_(min(share.end * P::kPieces, static_cast<int>(w.cols / kGroup)) - share.first * P::kPieces) {}

  // rows: of the bank, those of outputs g and g + 8.
  __device__ __forceinline__ TilePlace PlaceOf(const Weight& w, const int64_t (&rows)[2]) const {
    TilePlace place;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t piece = rows[h] * (w.cols / kGroup) + first_ * P::kPieces;
      place.codes[h] = static_cast<uint32_t>(piece * 4 + threadIdx.x % 4);
      place.pairs[h] = static_cast<uint32_t>(piece);
    }
    return place;
  }
  // Begins to fetch the first tile.
  __device__ __forceinline__ void Start(const TilePlace& place) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) Fetch(place, i, i);
    FetchPairs(place, 0);
  }

  // The tile at `here`, fetched before; begins to fetch the one at `next`, if there is one. totals: of outputs g (0, 1)
  // and g + 8 (2, 3), slots first_slot + 2 c and the next. slots: there are so many, at least one.
  __device__ __forceinline__ void Multiply(const TilePlace& here, const TilePlace& next, bool more,
                                           const SharedSlots& x, int first_slot, int slots, float (&totals)[4]) {
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
      const bool last = base + kDepth >= count_;
      uint32_t pairs[2][kPairWords];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < kPairWords; ++i) pairs[h][i] = pairs_[h][i];
      }
      if (!last) {
        FetchPairs(here, (base + kDepth) * P::kPieces);
      } else if (more) {
        FetchPairs(next, 0);
      }
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
#pragma unroll
        for (int piece = 0; piece < P::kPieces; ++piece) {
          const int in_round = i * P::kPieces + piece, group = base * P::kPieces + in_round;
          if (group >= groups_) break;
          float products[2][4] = {};  // two chains
#pragma unroll
          for (int j = 0; j < P::kWords; ++j) {
            const int word = piece * P::kWords + j;
            MultiplyWord(words_[i][0][word], words_[i][1][word], mine[((base + i) * 4 + word) * 4], products);
          }
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const uint32_t pair = __shfl_sync(0xffffffffu, pairs[h][in_round / 4], lane / 4 * 4 + in_round % 4);
            // Codes are 128 too large.
            const float scale = F16Value(pair), least = fmaf(scale, -128.0f, F16Value(pair >> 16));
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              const int at = 2 * h + j;
              totals[at] += fmaf(scale, products[0][at] + products[1][at], least * sums[j][group]);
            }
          }
        }
        if (!last) {
          Fetch(here, i, base + kDepth + i);
        } else if (more) {
          Fetch(next, i, i);
        }
      }
    }
  }

 private:
  static constexpr int kPairWords = CeilDiv(kDepth * P::kPieces, 4);  // a lane quarter has each fourth of a round's

  __device__ __forceinline__ void Fetch(const TilePlace& place, int i, int block) {
#pragma unroll
    for (int piece = 0; piece < P::kPieces; ++piece) {
      const int at = block * P::kPieces + piece;
      if (at >= groups_) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        LoadStreaming<P::kBytes>(&words_[i][h][piece * P::kWords],
                                 codes_ + uint64_t{place.codes[h] + 4 * at} * P::kBytes);
      }
    }
  }
  __device__ __forceinline__ void FetchPairs(const TilePlace& place, int first) {
    const int c = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kPairWords; ++i) {
      const int at = first + 4 * i + c;
      if (at >= groups_) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) LoadStreaming<4>(&pairs_[h][i], pairs_of_ + (place.pairs[h] + at));
    }
  }
  static __device__ __forceinline__ void MultiplyWord(uint32_t low, uint32_t high, const uint4& x,
                                                      float (&products)[2][4]) {
    Mma(products[0], NibblesPlus128(low), NibblesPlus128(high), NibblesPlus128(low >> 4), NibblesPlus128(high >> 4),
        x.x, x.y);
    Mma(products[1], NibblesPlus128(low >> 8), NibblesPlus128(high >> 8), NibblesPlus128(low >> 12),
        NibblesPlus128(high >> 12), x.z, x.w);
  }

  const uint8_t* codes_;
  const uint32_t* pairs_of_;
  int first_, count_, groups_;  // blocks of the share, and its groups
  uint32_t words_[kDepth][2][4];
  uint32_t pairs_[2][kPairWords] = {};
};

}  // namespace duo::cuda
