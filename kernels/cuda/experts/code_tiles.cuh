// Products of 16 outputs of an expert and up to 8 slots on tensor cores, from int4 codes in groups of one level and
// from MXFP4's: what a warp does with a block of k. x is bf16 and so are codes, exactly. int4's become 128 + code; a
// group's scale and minimum, and what the 128 added, are applied to its sums in f32, where they cost the last bits of
// 2^-24 * 136 sum |x| at most: little against the rounding of outputs to bf16, also with one x 10,000 times the others.
// MXFP4's become code * scale, which bf16 has too, so that their sums run over all of k.
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

// int4 codes in groups of kColumns. A block is cut into pieces that lie in one group: its four lanes then have one
// scale and one minimum.
template <int kColumns>
struct Int4Tile {
  static constexpr bool kPowers = false;
  static constexpr int kGroup = kColumns;
  static constexpr int kPieces = kTileColumns / kGroup, kBytes = 16 / kPieces, kWords = 4 / kPieces;
  static_assert(kPieces == 1 || kPieces == 2 || kPieces == 4);
};
// MXFP4: each lane has a group of its own.
struct PowerTile {
  static constexpr bool kPowers = true;
  static constexpr int kGroup = 32;
  static constexpr int kPieces = 1, kBytes = 16, kWords = 4;
};

// x of the slots of a product in shared memory: [slot][block][word 0-3][lane quarter] 16 bytes, the eight x that meet a
// word of codes, in the order of its nibbles; and each group's sum of x. Past the end of k both are 0.
struct SharedSlots {
  uint4* x;
  float* sums;
  int stride, groups;  // 16 bytes, and sums, from one slot to the next

  // A stride that is 4 modulo 8: no two lanes of a quarter warp in one bank.
  __host__ __device__ static int Stride(int64_t cols) { return static_cast<int>(CeilDiv(cols, kTileColumns)) * 16 + 4; }
  static __host__ __device__ int Groups(int64_t cols, int group) {
    return static_cast<int>(CeilDiv(cols, kTileColumns)) * (kTileColumns / group);
  }
  static __host__ __device__ size_t Bytes(int64_t cols, int group, int slots) {
    return static_cast<size_t>(slots) * 16 * Stride(cols) + sizeof(float) * RoundUp(slots * Groups(cols, group), 4);
  }
  __device__ SharedSlots(uint4* memory, int64_t cols, int group, int slots)
      : x(memory),
        sums(reinterpret_cast<float*>(memory + slots * Stride(cols))),
        stride(Stride(cols)),
        groups(Groups(cols, group)) {}
};

// By a whole block, or its first kThreads threads: x of `count` slots; row(s) is where slot s's begins. cols: whole
// groups.
template <typename Codes, int kThreads = 0, typename Row>
__device__ __forceinline__ void StageSlots(const SharedSlots& to, int64_t cols, int count, const Row& row) {
  const int chunks = static_cast<int>(CeilDiv(cols, int64_t{kTileColumns})) * 16;
  const int all = chunks * count, threads = kThreads > 0 ? kThreads : blockDim.x;
  for (int i = threadIdx.x; i < RoundUp(all, 32); i += threads) {
    const int slot = i / chunks, chunk = i - slot * chunks;
    uint4 v = {};
    if (i < all && chunk * 8 < cols) v = *reinterpret_cast<const uint4*>(row(slot) + chunk * 8);
    constexpr int kPieceChunks = 16 / Codes::kPieces;
    float sum = 0;
    if constexpr (!Codes::kPowers) {
      sum = LowBf16(v.x) + HighBf16(v.x) + LowBf16(v.y) + HighBf16(v.y) + LowBf16(v.z) + HighBf16(v.z) + LowBf16(v.w) +
            HighBf16(v.w);
#pragma unroll
      for (int lanes = 1; lanes < kPieceChunks; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    }
    if (i >= all) continue;
    const int piece = chunk / kPieceChunks, in_piece = chunk % kPieceChunks;
    const int quarter = in_piece / Codes::kWords,
              word = piece % Codes::kPieces * Codes::kWords + in_piece % Codes::kWords;
    const int place = (piece / Codes::kPieces * 4 + word) * 4 + quarter;
    // Of a word's nibbles 0 to 7 one mask takes 0 and 4, then 1 and 5, 2 and 6, 3 and 7.
    to.x[slot * to.stride + place] = {__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632),
                                      __byte_perm(v.y, v.w, 0x5410), __byte_perm(v.y, v.w, 0x7632)};
    if (!Codes::kPowers && in_piece == 0) to.sums[slot * to.groups + piece] = sum;
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

// Adds a word's codes of outputs g and g + 8 times x to two chains of sums.
__device__ __forceinline__ void MultiplyPairs(const uint32_t (&low)[4], const uint32_t (&high)[4], const uint4& x,
                                              float (&chains)[2][4]) {
  Mma(chains[0], low[0], high[0], low[1], high[1], x.x, x.y);
  Mma(chains[1], low[2], high[2], low[3], high[3], x.z, x.w);
}

// A lane's sums over a share of k: `totals` of outputs g (0, 1) and g + 8 (2, 3), slots 2 c and 2 c + 1. kSlots 1:
// there is one slot, whose sums are in 0 and 2.
template <typename Codes, int kSlots>
class TileTotals;

template <int kColumns, int kSlots>
class TileTotals<Int4Tile<kColumns>, kSlots> {
 public:
  using Codes = Int4Tile<kColumns>;

  // x: of the piece's first word, sums: the group's, of the lane's slots. pairs: f16 scale and minimum of both outputs.
  __device__ __forceinline__ void Add(const uint32_t* low, const uint32_t* high, const uint32_t (&pairs)[2],
                                      const uint4* x, const float (&sums)[2]) {
    float products[2][4] = {};  // two chains
#pragma unroll
    for (int j = 0; j < Codes::kWords; ++j) {
      uint32_t a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = NibblesPlus128(low[j] >> 4 * i), b[i] = NibblesPlus128(high[j] >> 4 * i);
      MultiplyPairs(a, b, x[4 * j], products);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // Codes are 128 too large.
      const float scale = F16Value(pairs[h]), least = fmaf(scale, -128.0f, F16Value(pairs[h] >> 16));
#pragma unroll
      for (int j = 0; j < kSlots; ++j) {
        const int at = 2 * h + j;
        totals_[at] += fmaf(scale, products[0][at] + products[1][at], least * sums[j]);
      }
    }
  }
  __device__ __forceinline__ void Store(float (&totals)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) totals[i] = totals_[i];
  }

 private:
  float totals_[4] = {};
};

// e2m1 codes, times their group's power of two, to bf16. The bits s, ee and m at a bf16's sign, lowest exponent bits
// and highest mantissa bit are code * 2^-126, also where ee is 0; one product with scale * 2^(126 - kLess) makes that
// code * scale * 2^-kLess, exactly for every scale of 2^(128 + kLess - 127) at most; above that it takes a second
// product.
struct PowerFactors {
  static constexpr int kLess = 5;                  // so that scales of 2^-127 leave all bits of a code
  static constexpr int kMost = 254;                // a bf16's exponent field
  static constexpr uint32_t kTwice = 0x00800080u;  // 1 in both exponent fields

  uint32_t first[2], second[2];  // of both outputs
  bool twice;                    // of any lane: alike on all

  __device__ __forceinline__ PowerFactors(const uint32_t (&exponents)[2]) {
    bool above = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int field = static_cast<int>(exponents[h]) + 126 - kLess;
      first[h] = min(field, kMost) * kTwice;
      second[h] = exponents[h] == 255 ? 0x7fc07fc0u : (max(field - kMost, 0) + 127) * kTwice;  // 255 is not a number
      above |= field > kMost;
    }
    twice = __any_sync(0xffffffffu, above);
  }
};
__device__ __forceinline__ uint32_t MultiplyBf16(uint32_t a, uint32_t b) {
  const __nv_bfloat162 product =
      __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&a), *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&product);
}
__device__ __forceinline__ void PowerPairs(uint32_t word, uint32_t factor, uint32_t (&pairs)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Nibbles of each half, once shifted to its top and once six bits below, by one product.
    const uint32_t nibbles = (i < 2 ? word : word >> 8) & (i % 2 == 0 ? 0x000f000fu : 0x00f000f0u);
    const uint32_t bits = nibbles * (i % 2 == 0 ? 0x1040u : 0x0104u) & 0x81c081c0u;
    pairs[i] = MultiplyBf16(bits, factor);
  }
}

template <int kSlots>
class TileTotals<PowerTile, kSlots> {
 public:
  // A block: its four words of the lane's group, whose exponents these are.
  __device__ __forceinline__ void Add(const uint32_t* low, const uint32_t* high, const uint32_t (&exponents)[2],
                                      const uint4* x) {
    const PowerFactors factors(exponents);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t a[4], b[4];
      PowerPairs(low[j], factors.first[0], a);
      PowerPairs(high[j], factors.first[1], b);
      if (factors.twice) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = MultiplyBf16(a[i], factors.second[0]);
          b[i] = MultiplyBf16(b[i], factors.second[1]);
        }
      }
      MultiplyPairs(a, b, x[4 * j], chains_);
    }
  }
  __device__ __forceinline__ void Store(float (&totals)[4]) const {
    constexpr float kUnit = 1 << PowerFactors::kLess;
#pragma unroll
    for (int i = 0; i < 4; ++i) totals[i] = (chains_[0][i] + chains_[1][i]) * kUnit;
  }

 private:
  float chains_[2][4] = {};
};

// Where a lane's codes and scales of a tile begin in a bank: of its outputs g and g + 8, in units of what the lane has
// of a piece, and in pairs or exponents.
struct TilePlace {
  uint32_t codes[2], scales[2];
};

// A warp's codes of a share of k of one tile after the other, from the device's memory to registers, kDepth blocks
// under way at once.
template <typename Codes, int kDepth>
class CodeTile {
 public:
  __device__ __forceinline__ CodeTile(const Weight& w, const TileShare& share)
      : codes_(static_cast<const uint8_t*>(w.data)), first_(share.first), count_(share.end - share.first) {
    const int groups = static_cast<int>(w.cols / Codes::kGroup);
    if constexpr (Codes::kPowers) {
      scales_of_ = w.exponents;
      groups_ = groups - first_ * 4;  // up to the row's end
    } else {
      scales_of_ = w.groups;
      groups_ = min(share.end * Codes::kPieces, groups) - first_ * Codes::kPieces;
    }
  }

  // rows: of the bank, those of outputs g and g + 8.
  __device__ __forceinline__ TilePlace PlaceOf(const Weight& w, const int64_t (&rows)[2]) const {
    TilePlace place;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (Codes::kPowers) {
        place.codes[h] = place.scales[h] =
            static_cast<uint32_t>(rows[h] * (w.cols / Codes::kGroup) + first_ * 4 + threadIdx.x % 4);
      } else {
        const int64_t piece = rows[h] * (w.cols / Codes::kGroup) + first_ * Codes::kPieces;
        place.codes[h] = static_cast<uint32_t>(piece * 4 + threadIdx.x % 4);
        place.scales[h] = static_cast<uint32_t>(piece);
      }
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
      sums[j] = x.sums + (first_slot + min(2 * c + j, slots - 1)) * x.groups + first_ * Codes::kPieces;
    }
    TileTotals<Codes, 2> all;
#pragma unroll 1
    for (int base = 0; base < count_; base += kDepth) {
      const bool last = base + kDepth >= count_;
      uint32_t pairs[2][kPairWords];
      if constexpr (!Codes::kPowers) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int i = 0; i < kPairWords; ++i) pairs[h][i] = scales_[h][i];
        }
        if (!last) {
          FetchPairs(here, (base + kDepth) * Codes::kPieces);
        } else if (more) {
          FetchPairs(next, 0);
        }
      }
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        if constexpr (Codes::kPowers) {
          if (base + i < count_) {
            const uint32_t exponents[2] = {scales_[0][i], scales_[1][i]};
            all.Add(words_[i][0], words_[i][1], exponents, mine + (base + i) * 16);
          }
        } else {
#pragma unroll
          for (int piece = 0; piece < Codes::kPieces; ++piece) {
            const int in_round = i * Codes::kPieces + piece, group = base * Codes::kPieces + in_round;
            if (group >= groups_) break;
            uint32_t of_group[2];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              of_group[h] = __shfl_sync(0xffffffffu, pairs[h][in_round / 4], lane / 4 * 4 + in_round % 4);
            }
            const float of_x[2] = {sums[0][group], sums[1][group]};
            const int word = piece * Codes::kWords;
            all.Add(words_[i][0] + word, words_[i][1] + word, of_group, mine + ((base + i) * 4 + word) * 4, of_x);
          }
        }
        if (!last) {
          Fetch(here, i, base + kDepth + i);
        } else if (more) {
          Fetch(next, i, i);
        }
      }
    }
    all.Store(totals);
  }

 private:
  // A lane quarter has each fourth pair of a round's; an exponent of each block.
  static constexpr int kPairWords = Codes::kPowers ? kDepth : CeilDiv(kDepth * Codes::kPieces, 4);

  __device__ __forceinline__ void Fetch(const TilePlace& place, int i, int block) {
    if constexpr (Codes::kPowers) {
      if (block >= count_) return;
      const bool here = block * 4 + static_cast<int>(threadIdx.x % 4) < groups_;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        scales_[h][i] = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) words_[i][h][j] = 0;
        if (!here) continue;
        const uint32_t at = place.codes[h] + 4 * block;
        LoadStreaming<16>(words_[i][h], codes_ + uint64_t{at} * 16);
        scales_[h][i] = __ldg(static_cast<const uint8_t*>(scales_of_) + at);
      }
    } else {
#pragma unroll
      for (int piece = 0; piece < Codes::kPieces; ++piece) {
        const int at = block * Codes::kPieces + piece;
        if (at >= groups_) break;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          LoadStreaming<Codes::kBytes>(&words_[i][h][piece * Codes::kWords],
                                       codes_ + uint64_t{place.codes[h] + 4 * at} * Codes::kBytes);
        }
      }
    }
  }
  __device__ __forceinline__ void FetchPairs(const TilePlace& place, int first) {
    if constexpr (!Codes::kPowers) {
      const int c = threadIdx.x % 4;
#pragma unroll
      for (int i = 0; i < kPairWords; ++i) {
        const int at = first + 4 * i + c;
        if (at >= groups_) break;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          LoadStreaming<4>(&scales_[h][i], static_cast<const uint32_t*>(scales_of_) + (place.scales[h] + at));
        }
      }
    }
  }

  const uint8_t* codes_;
  const void* scales_of_;       // pairs or exponents
  int first_, count_, groups_;  // blocks of the share, and its groups
  uint32_t words_[kDepth][2][4];
  uint32_t scales_[2][kPairWords] = {};
};

}  // namespace duo::cuda
