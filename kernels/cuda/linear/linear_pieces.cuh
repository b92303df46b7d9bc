// Codes in groups times a few rows of x, on integer tensor cores: the inner function, of one warp. Registers and shared
// memory, no kernel of its own.
//
// A lane's 16 bytes of codes are a piece: 32 columns of int4, 16 of int8, which lie in one group, however the groups
// are cut. A product of the tensor cores adds up the columns of four lanes, so four pieces, that have four scales. So x
// is given to it as four pairs of columns, one for each piece, which are zero where another piece's codes are: the sums
// of the pieces then come out side by side, one in each lane of four, and every lane scales its own. Three quarters of
// the products are by zero, which costs nothing, for the tensor cores wait for memory; scaling four pieces one after
// another in every lane took two thirds of the instructions.
//
// Codes of a table become its numbers in registers (code_tables.cuh). Columns that are no whole blocks end in pieces
// whose x is zero: the last piece of the output is read in their stead.
//
// x meets the codes as 16-bit fixed point, its high and its low bytes in the two columns of a pair
// (fixed_point.cuh). Whole numbers are exact and every row has columns of its own, so a row's bits do not depend on
// the rows beside it.
#pragma once

#include "kernels/base/math.h"
#include "kernels/cuda/linear/code_tables.cuh"
#include "kernels/cuda/linear/fixed_point.cuh"

namespace duo::cuda {

template <DType kType>
struct PieceShape {
  static_assert(kType == DType::kI4 || kType == DType::kI8);
  static constexpr int kBits = kType == DType::kI4 ? 4 : 8;
  static constexpr int kPieceColumns = 128 / kBits;
  static constexpr int kColumns = 4 * kPieceColumns;  // of a block: 64 bytes of codes of an output
  static constexpr int kChunks = kColumns / 8;        // 8 consecutive x
  static constexpr int kSteps = kPieceColumns / 8;    // chunks of a piece, 8 bytes of x's high or low bytes each
  static constexpr int kHalfBytes = kPieceColumns;    // of a piece's x: its high or its low bytes
  static constexpr int kXBytes = 4 * 2 * kHalfBytes;  // of a block's
  static constexpr int kDepth = 4;                    // blocks in flight per warp
  static constexpr int kAtOnce = 2;                   // blocks whose products are interleaved
};

// What a kernel is made for. kTwo: groups of two levels. kEndsWithin: columns may end within a block, which costs one
// row of whole blocks 3 %.
template <DType kOfType, bool kOfTwo, CodeTable kOfTable = CodeTable::kNone,
          bool kMayEndWithin = kOfTable != CodeTable::kNone>
struct PieceKind {
  static constexpr bool kEndsWithin = kMayEndWithin;
  static constexpr DType kType = kOfType;
  static constexpr bool kTwo = kOfTwo;
  static constexpr CodeTable kTable = kOfTable;
  static constexpr bool kPowers = kTable == CodeTable::kE2M1;  // scales
  // A table's numbers come out of it in the order of int8's codes.
  static constexpr DType kXType = kTable == CodeTable::kNone ? kType : DType::kI8;
  using Shape = PieceShape<kType>;
};

// A warp's x in shared memory: of whole kAtOnces of blocks and of all rows that a kernel is made for, with zeros where
// there is none.
struct PieceX {
  uint8_t* elements;   // [block][row][piece][high, low][kHalfBytes]
  float* sums;         // [block][row][piece]
  const uint4* zeros;  // two, 16 bytes off a line, so in other banks than what the lanes beside read
  template <DType kType>
  static constexpr int Bytes() {  // a block and row
    return PieceShape<kType>::kXBytes + 4 * sizeof(float);
  }
};

// Codes and scales by pieces, which are numbered from the first of the matrix on. Groups are whole powers of two of
// pieces, so a piece's number is its group's but for a shift.
struct PieceWeights {
  const uint4* codes;
  const uint32_t* pairs;
  const uint16_t* subs;
  const uint8_t* exponents;   // e2m1: of each piece
  int pair_shift, sub_shift;  // log2 of the pieces of a pair of `groups` and, of two levels, of a group
};
PieceWeights PiecesOf(const Weight& weight);  // linear_pieces.cu's
bool HasPieces(const Weight& weight);         // codes in groups, whole pieces of them
// Where a warp's share of k begins for a lane, in output rows g and g + 8 of a tile.
struct PiecePlace {
  uint32_t first[2];  // piece
  int last;           // the output's last piece, counted from `first`
  int part, tile, blocks;
};

// Blocks of weights on their way from memory.
template <typename Kind>
struct PieceRing {
  static constexpr int kDepth = Kind::Shape::kDepth;
  static constexpr bool kTwo = Kind::kTwo;
  uint32_t codes[kDepth][2][4] = {};
  uint32_t pairs[kDepth][2] = {};
  uint32_t subs[kTwo ? kDepth : 1][2] = {};

  // Block `block` of the share.
  __device__ __forceinline__ void Load(int slot, const PieceWeights& weights, const PiecePlace& place, int block) {
    const int from_first = Kind::kEndsWithin ? min(4 * block, place.last) : 4 * block;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t piece = place.first[h] + from_first;
      LoadStreaming<16>(codes[slot][h], weights.codes + piece);
      if constexpr (Kind::kPowers) {
        pairs[slot][h] = __ldg(weights.exponents + piece);
      } else {
        pairs[slot][h] = __ldg(weights.pairs + (piece >> weights.pair_shift));
      }
      if constexpr (kTwo) subs[slot][h] = __ldg(weights.subs + (piece >> weights.sub_shift));
    }
  }
  __device__ __forceinline__ float2 Scale(int slot, int h) const {
    if constexpr (Kind::kPowers) return {PowerOf(pairs[slot][h]) * kTableUnit<Kind::kTable>, 0};
    float2 of = {F16Value(pairs[slot][h]), F16Value(pairs[slot][h] >> 16)};
    if constexpr (kTwo) {
      of.x *= Int8Value(subs[slot][h], 0);
      of.y *= Int8Value(subs[slot][h], 1);
    }
    return of;
  }
};

// The products of one tile and a warp's share of k. kRows: the most rows.
template <typename Kind, int kRows>
class PieceProducts {
 public:
  using S = typename Kind::Shape;

  // row(r): the share's first column of row r of x; the share has `blocks`, of which `columns` exist. Every row is
  // scaled so that its largest |x| of the share becomes kMostFixed. kKept: chunks of a lane that stay in registers from
  // the search for the largest on. The others are read again.
  template <int kKept = 4, typename Row>
  __device__ __forceinline__ void Stage(const Row& row, int rows, int blocks, int columns, const PieceX& shared,
                                        int lane) {
    const int padded = RoundUp(blocks, S::kAtOnce) * S::kChunks, there = min(blocks * S::kChunks, columns / 8);
#pragma unroll 1
    for (int r = 0; r < kRows; ++r) {
      const bf16* of_row = row(min(r, rows - 1));
      const int chunks = r < rows ? there : 0;
      const auto chunk = [&](int i) {
        return i < chunks ? *reinterpret_cast<const uint4*>(of_row + i * 8) : make_uint4(0, 0, 0, 0);
      };
      uint4 kept[kKept];
      uint32_t most = 0;
#pragma unroll
      for (int k = 0; k < kKept; ++k) kept[k] = chunk(lane + 32 * k);
#pragma unroll
      for (int k = 0; k < kKept; ++k) most = LargerOf(most, kept[k]);
      for (int i = lane + 32 * kKept; i < chunks; i += 32) most = LargerOf(most, chunk(i));
      const float unit = FixedUnit(__uint_as_float(LargestOfWarp(most) << 16)), factor = 1 / unit;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (i == r) units_[i] = unit;
      }
      // Whole warps go round together: the sums shuffle.
      const int whole = RoundUp(padded, 32);
#pragma unroll
      for (int k = 0; k < kKept; ++k) {
        if (32 * k < whole) StageChunk(kept[k], factor, r, lane + 32 * k, padded, shared);
      }
#pragma unroll 1
      for (int i = lane + 32 * kKept; i < whole; i += 32) StageChunk(chunk(i), factor, r, i, padded, shared);
    }
  }

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums_[r][0] = sums_[r][1] = 0;
  }

  // kAtOnce blocks, the first of which is block `block` of the share and in slot `slot` of the ring.
  template <typename Ring>
  __device__ __forceinline__ void Multiply(const Ring& ring, int slot, const PieceX& shared, int block, int lane) {
    const int g = lane / 4, c = lane % 4;
    const bool mine = g / 2 == c;  // column g of x is not zero where this lane's codes are
    const uint8_t* first = mine ? shared.elements + c * (2 * S::kHalfBytes) + g % 2 * S::kHalfBytes
                                : reinterpret_cast<const uint8_t*>(shared.zeros);
    const int line_bytes = mine ? S::kXBytes : 0;
    float2 scales[S::kAtOnce][2];
#pragma unroll
    for (int i = 0; i < S::kAtOnce; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) scales[i][h] = ring.Scale(slot + i, h);
    }
    const auto multiply = [&](int r, int i) {
      const uint32_t(&codes)[2][4] = ring.codes[slot + i];
      const int line = (block + i) * kRows + r;
      const auto* from = reinterpret_cast<const uint4*>(first + line * line_bytes);
      int products[4] = {};
#pragma unroll
      for (int two = 0; two < S::kSteps / 2; ++two) {
        const uint4 b = from[two];
        Step(products, codes, 2 * two, b.x, b.y);
        Step(products, codes, 2 * two + 1, b.z, b.w);
      }
      const float x_sum = shared.sums[line * 4 + c];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float product = static_cast<float>(256 * products[2 * h] + products[2 * h + 1]);
        sums_[r][h] = fmaf(scales[i][h].x, product, fmaf(scales[i][h].y, x_sum, sums_[r][h]));
      }
    };
    // The numbers of a block of a table's codes serve all rows before those of the next are looked up.
    constexpr bool kRowsInner = Kind::kTable != CodeTable::kNone;
#pragma unroll
    for (int outer = 0; outer < (kRowsInner ? S::kAtOnce : kRows); ++outer) {
#pragma unroll
      for (int inner = 0; inner < (kRowsInner ? kRows : S::kAtOnce); ++inner) {
        kRowsInner ? multiply(inner, outer) : multiply(outer, inner);
      }
    }
  }

  __device__ __forceinline__ float unit(int row) const {
    float of = units_[0];
#pragma unroll
    for (int r = 1; r < kRows; ++r) {
      if (r == row) of = units_[r];
    }
    return of;
  }

  // A row's sums of outputs g and g + 8 over the share, the same in the four lanes of a g. unit: the row's.
  __device__ __forceinline__ float2 Total(int row, float unit) const {
    float of[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      of[h] = sums_[row][h] * unit;
      of[h] += __shfl_xor_sync(0xffffffffu, of[h], 1);
      of[h] += __shfl_xor_sync(0xffffffffu, of[h], 2);
    }
    return {of[0], of[1]};
  }

  // sums [row][piece of four][16 outputs]
  __device__ __forceinline__ void Store(float* sums, int lane) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) sums[(r * 4 + lane % 4) * 16 + lane / 4 + 8 * h] = sums_[r][h] * units_[r];
    }
  }

 private:
  static constexpr uint32_t kNibbles = 0x0f0f0f0fu;

  // Chunk i of row r, by all lanes of the warp.
  static __device__ __forceinline__ void StageChunk(const uint4& v, float factor, int r, int i, int padded,
                                                    const PieceX& shared) {
    uint2 high, low;
    int sum = FixedEight<Kind::kXType>(v, factor, high, low);
#pragma unroll
    for (int lanes = 1; lanes < S::kSteps; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (i >= padded) return;
    const int line = i / S::kChunks * kRows + r, piece = i % S::kChunks / S::kSteps, step = i % S::kSteps;
    if (step == 0) shared.sums[line * 4 + piece] = static_cast<float>(sum);
    uint8_t* to = shared.elements + line * S::kXBytes + piece * (2 * S::kHalfBytes) + step * 8;
    *reinterpret_cast<uint2*>(to) = high;
    *reinterpret_cast<uint2*>(to + S::kHalfBytes) = low;
  }

  static __device__ __forceinline__ void Step(int (&products)[4], const uint32_t (&codes)[2][4], int step, uint32_t b0,
                                              uint32_t b1) {
    if constexpr (Kind::kTable != CodeTable::kNone) {
      const uint32_t w0 = codes[0][step], w1 = codes[1][step];
      const NumberSums n0 = EightNumbers<Kind::kTable>(w0), n1 = EightNumbers<Kind::kTable>(w1);
      MmaS8(products, n0.a[0], n1.a[0], n0.a[1], n1.a[1], b0, b1);
      MmaS8(products, n0.b[0], n1.b[0], n0.b[1], n1.b[1], b0, b1);
    } else if constexpr (Kind::kType == DType::kI4) {
      const uint32_t w0 = codes[0][step], w1 = codes[1][step];
      MmaU8S8(products, w0 & kNibbles, w1 & kNibbles, w0 >> 4 & kNibbles, w1 >> 4 & kNibbles, b0, b1);
    } else {
      MmaS8(products, codes[0][2 * step], codes[1][2 * step], codes[0][2 * step + 1], codes[1][2 * step + 1], b0, b1);
    }
  }

  float sums_[kRows][2];     // of the lane's piece of four: outputs g, g + 8
  float units_[kRows] = {};  // what 1 of a row's fixed point stands for
};

// Multiplies a unit. A slot of the ring is refilled as soon as it was used, from this unit or in its last round from
// `next`.
template <typename Products, typename Ring>
__device__ __forceinline__ void MultiplyPieces(Products& products, Ring& ring, const PieceWeights& weights,
                                               const PiecePlace& place, const PiecePlace& next, const PieceX& x,
                                               int lane) {
  constexpr int kDepth = Products::S::kDepth, kAtOnce = Products::S::kAtOnce;
  const int mine = place.blocks;
  // At least one round, so that a warp without blocks here still fetches those of the next unit.
  for (int base = 0; base == 0 || base < mine; base += kDepth) {
    const bool last_round = base + kDepth >= mine;
#pragma unroll
    for (int slot = 0; slot < kDepth; slot += kAtOnce) {
      if (base + slot < mine) products.Multiply(ring, slot, x, base + slot, lane);
#pragma unroll
      for (int i = slot; i < slot + kAtOnce; ++i) {
        if (!last_round) {
          if (base + kDepth + i < mine) ring.Load(i, weights, place, base + kDepth + i);
        } else if (i < next.blocks) {
          ring.Load(i, weights, next, i);
        }
      }
    }
  }
}

}  // namespace duo::cuda
