// Products of 16 outputs of an expert and up to 8 slots on tensor cores, from int4 codes in groups of one level and
// from MXFP4's: what a warp does with a block of k. int4's codes are bytes and x is 16-bit fixed point in two bytes,
// each group of it by itself; a group's sums are whole numbers, to which its scale and minimum are applied in f32.
// Codes as bf16 took twice the instructions. MXFP4's become code * scale, which bf16 has exactly, so that their sums
// run over all of k.
//
// Codes are the A operand (16 outputs x k), x the B operand (k x 8 columns), and a slot's sums do not depend on the
// others. Which k sits where in a fragment is free as long as both sides agree: a lane has consecutive bytes of two
// outputs, and x is laid out in shared memory as they meet it.
#pragma once

#include "kernels/base/math.h"
#include "kernels/cuda/linear/fixed_point.cuh"
#include "kernels/cuda/linear/linear_products.cuh"
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

// Calls launch(Codes()) with what these weights are.
template <typename Launch>
void ForCodes(const Weight& w, const Launch& launch) {
  if (w.table == CodeTable::kE2M1) return launch(PowerTile());
  if (w.group == 128) return launch(Int4Tile<128>());
  if (w.group == 64) return launch(Int4Tile<64>());
  launch(Int4Tile<32>());
}

// x of the slots of a product in shared memory: [slot][block][word 0-3][lane quarter] 16 bytes, the eight x that meet a
// word of codes: of MXFP4 as bf16, in the order of its nibbles; of int4 as high bytes, those of nibbles 0, 2, 4, 6 and
// of 1, 3, 5, 7, then as low ones. Of int4 also each group's unit of fixed point and its sum of x. Past the end of k
// all are 0.
struct SharedSlots {
  uint4* x;
  float2* sums;
  int stride, groups;  // 16 bytes, and sums, from one slot to the next

  // A stride that is 4 modulo 8: no two lanes of a quarter warp in one bank.
  __host__ __device__ static int Stride(int64_t cols) { return static_cast<int>(CeilDiv(cols, kTileColumns)) * 16 + 4; }
  static __host__ __device__ int Groups(int64_t cols, int group) {
    return static_cast<int>(CeilDiv(cols, kTileColumns)) * (kTileColumns / group);
  }
  static __host__ __device__ size_t Bytes(int64_t cols, int group, int slots) {
    return static_cast<size_t>(slots) * 16 * Stride(cols) + sizeof(float2) * RoundUp(slots * Groups(cols, group), 2);
  }
  __device__ SharedSlots(uint4* memory, int64_t cols, int group, int slots)
      : x(memory),
        sums(reinterpret_cast<float2*>(memory + slots * Stride(cols))),
        stride(Stride(cols)),
        groups(Groups(cols, group)) {}
  // What lies behind so many slots.
  __device__ float* End(int slots) const { return reinterpret_cast<float*>(sums + RoundUp(groups * slots, 2)); }
};

// By a whole block, or its first kThreads threads: x of `count` slots; row(s) is where slot s's begins. cols: whole
// groups.
template <typename Codes, int kThreads = 0, typename Row>
__device__ __forceinline__ void StageSlots(const SharedSlots& to, int64_t cols, int count, const Row& row) {
  constexpr int kPieceChunks = 16 / Codes::kPieces;
  const int chunks = static_cast<int>(CeilDiv(cols, int64_t{kTileColumns})) * 16;
  const int all = chunks * count, threads = kThreads > 0 ? kThreads : blockDim.x;
#pragma unroll 4
  for (int i = threadIdx.x; i < RoundUp(all, 32); i += threads) {  // by whole warps
    const int slot = i / chunks, chunk = i - slot * chunks;
    const int piece = chunk / kPieceChunks, in_piece = chunk % kPieceChunks, quarter = in_piece / Codes::kWords;
    const int word = piece % Codes::kPieces * Codes::kWords + in_piece % Codes::kWords;
    uint4& at = to.x[slot * to.stride + (piece / Codes::kPieces * 4 + word) * 4 + quarter];
    uint4 v = {};
    if (i < all && chunk * 8 < cols) v = *reinterpret_cast<const uint4*>(row(slot) + chunk * 8);
    if constexpr (Codes::kPowers) {
      // Of a word's nibbles 0 to 7 one mask takes 0 and 4, then 1 and 5, 2 and 6, 3 and 7.
      if (i < all) {
        at = {__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632), __byte_perm(v.y, v.w, 0x5410),
              __byte_perm(v.y, v.w, 0x7632)};
      }
    } else {
      constexpr uint32_t kMagnitude = 0x7fff7fffu;
      const uint32_t pair =
          __vmaxu2(__vmaxu2(v.x & kMagnitude, v.y & kMagnitude), __vmaxu2(v.z & kMagnitude, v.w & kMagnitude));
      uint32_t largest = max(pair & 0xffffu, pair >> 16);  // bits of |x|, which are ordered as their values
#pragma unroll
      for (int lanes = 1; lanes < kPieceChunks; lanes *= 2) {
        largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
      }
      const float unit = FixedUnit(__uint_as_float(largest << 16));
      uint2 high, low;
      int sum = FixedEight<DType::kI4>(v, 1 / unit, high, low);
#pragma unroll
      for (int lanes = 1; lanes < kPieceChunks; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      if (i < all) {
        at = {high.x, high.y, low.x, low.y};
        if (in_piece == 0) to.sums[slot * to.groups + piece] = make_float2(unit, unit * static_cast<float>(sum));
      }
    }
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

// A lane's sums over a share of k: of outputs g (0, 1) and g + 8 (2, 3), each of the slots SlotOf. Of x's slots `count`
// from first_slot on; kSlots 1: of one, whose sums are in 0 and 2, otherwise of up to kTileSlots.
template <typename Codes, int kSlots>
class TileTotals;

template <int kColumns, int kSlots>
class TileTotals<Int4Tile<kColumns>, kSlots> {
 public:
  using Codes = Int4Tile<kColumns>;

  // Columns of x are slots' high and low bytes: four slots at once.
  static __device__ __forceinline__ int SlotOf(int c, int i) { return c + i % 2 * 4; }
  __device__ __forceinline__ TileTotals(const SharedSlots& x, int first_slot, int count) {
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      const int column = kSlots == 1 ? 0 : min(g / 2 + 4 * j, count - 1),
                mine = kSlots == 1 ? 0 : min(c + 4 * j, count - 1);
      x_[j] = reinterpret_cast<const uint2*>(x.x + (first_slot + column) * x.stride + c) + g % 2;
      sums_[j] = x.sums + (first_slot + mine) * x.groups;
    }
  }

  // A piece of a block: its words of both outputs, and their pairs of f16, scale and minimum.
  __device__ __forceinline__ void Add(const uint32_t* low, const uint32_t* high, const uint32_t (&pairs)[2], int block,
                                      int piece) {
    constexpr uint32_t kNibbles = 0x0f0f0f0fu;
    int products[kSlots][4] = {};
#pragma unroll
    for (int i = 0; i < Codes::kWords; ++i) {
      const int word = block * 4 + piece * Codes::kWords + i;
#pragma unroll
      for (int j = 0; j < kSlots; ++j) {
        const uint2 b = x_[j][word * 8];
        MmaU8S8(products[j], low[i] & kNibbles, high[i] & kNibbles, low[i] >> 4 & kNibbles, high[i] >> 4 & kNibbles,
                b.x, b.y);
      }
    }
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      const float2 of = sums_[j][block * Codes::kPieces + piece];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float product = static_cast<float>(256 * products[j][2 * h] + products[j][2 * h + 1]) * of.x;
        totals_[2 * h + j] =
            fmaf(F16Value(pairs[h]), product, fmaf(F16Value(pairs[h] >> 16), of.y, totals_[2 * h + j]));
      }
    }
  }
  __device__ __forceinline__ void Store(float (&totals)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) totals[i] = totals_[i];
  }

 private:
  const uint2* x_[kSlots];
  const float2* sums_[kSlots];
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
  static __device__ __forceinline__ int SlotOf(int c, int i) { return 2 * c + i % 2; }
  __device__ __forceinline__ TileTotals(const SharedSlots& x, int first_slot, int count)
      : x_(x.x + (first_slot + (kSlots == 1 ? 0 : min(static_cast<int>(threadIdx.x % 32 / 4), count - 1))) * x.stride +
           threadIdx.x % 4) {}

  // A block: its four words of the lane's group of both outputs, whose exponents these are.
  __device__ __forceinline__ void Add(const uint32_t* low, const uint32_t* high, const uint32_t (&exponents)[2],
                                      int block) {
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
      const uint4 x = x_[(block * 4 + j) * 4];
      Mma(chains_[0], a[0], b[0], a[1], b[1], x.x, x.y);
      Mma(chains_[1], a[2], b[2], a[3], b[3], x.z, x.w);
    }
  }
  __device__ __forceinline__ void Store(float (&totals)[4]) const {
    constexpr float kUnit = 1 << PowerFactors::kLess;
#pragma unroll
    for (int i = 0; i < 4; ++i) totals[i] = (chains_[0][i] + chains_[1][i]) * kUnit;
  }

 private:
  const uint4* x_;
  float chains_[2][4] = {};  // two, so that products do not wait for each other
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

  // The tile at `here`, fetched before; begins to fetch the one at `next`, if there is one. totals:
  // TileTotals' of `slots` slots from first_slot on, at least one.
  __device__ __forceinline__ void Multiply(const TilePlace& here, const TilePlace& next, bool more,
                                           const SharedSlots& x, int first_slot, int slots, float (&totals)[4]) {
    const int lane = threadIdx.x % 32;
    TileTotals<Codes, 2> all(x, first_slot, slots);
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
            all.Add(words_[i][0], words_[i][1], exponents, first_ + base + i);
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
            const int word = piece * Codes::kWords;
            all.Add(words_[i][0] + word, words_[i][1] + word, of_group, first_ + base + i, piece);
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
