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
// x meets the codes as 16-bit fixed point, its high and its low bytes in the two columns of a pair
// (linear_products.cuh). Whole numbers are exact and every row has columns of its own, so a row's bits do not depend on
// the rows beside it.
#pragma once

#include "kernels/base/math.h"
#include "kernels/cuda/linear/linear_products.cuh"

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
  int pair_shift, sub_shift;  // log2 of the pieces of a pair of `groups` and, of two levels, of a group
};
// Where a warp's share of k begins for a lane, in output rows g and g + 8 of a tile.
struct PiecePlace {
  uint32_t first[2];  // piece
  int part, tile, blocks;
};

// Blocks of weights on their way from memory.
template <DType kType, bool kTwo>
struct PieceRing {
  static constexpr int kDepth = PieceShape<kType>::kDepth;
  uint32_t codes[kDepth][2][4] = {};
  uint32_t pairs[kDepth][2] = {};
  uint32_t subs[kTwo ? kDepth : 1][2] = {};

  // Block `block` of the share.
  __device__ __forceinline__ void Load(int slot, const PieceWeights& weights, const PiecePlace& place, int block) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t piece = place.first[h] + 4 * block;
      LoadStreaming<16>(codes[slot][h], weights.codes + piece);
      pairs[slot][h] = __ldg(weights.pairs + (piece >> weights.pair_shift));
      if constexpr (kTwo) subs[slot][h] = __ldg(weights.subs + (piece >> weights.sub_shift));
    }
  }
  __device__ __forceinline__ float2 Scale(int slot, int h) const {
    float2 of = {F16Value(pairs[slot][h]), F16Value(pairs[slot][h] >> 16)};
    if constexpr (kTwo) {
      of.x *= Int8Value(subs[slot][h], 0);
      of.y *= Int8Value(subs[slot][h], 1);
    }
    return of;
  }
};

// The products of one tile and a warp's share of k. kRows: the most rows.
template <DType kType, bool kTwo, int kRows>
class PieceProducts {
 public:
  using S = PieceShape<kType>;

  // `x` is the share's first column, `blocks` long. Every row is scaled so that its largest |x| of the share becomes
  // kMostFixed.
  __device__ __forceinline__ void Stage(const bf16* x, int64_t stride, int rows, int blocks, const PieceX& shared,
                                        int lane) {
    const int padded = RoundUp(blocks, S::kAtOnce) * S::kChunks;
#pragma unroll 1
    for (int r = 0; r < kRows; ++r) {
      const bf16* of_row = x + r * stride;
      const int chunks = r < rows ? blocks * S::kChunks : 0;
      const float largest = __shfl_sync(0xffffffffu, LargestOf<1>(of_row, stride, 1, chunks, lane), 0);
      const float unit = FixedUnit(largest), factor = 1 / unit;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (i == r) units_[i] = unit;
      }
      // Whole warps go round together: the sums shuffle.
#pragma unroll 4
      for (int i = lane; i < RoundUp(padded, 32); i += 32) {
        const uint4 v = i < chunks ? *reinterpret_cast<const uint4*>(of_row + i * 8) : make_uint4(0, 0, 0, 0);
        uint2 high, low;
        int sum = FixedEight<kType>(v, factor, high, low);
#pragma unroll
        for (int lanes = 1; lanes < S::kSteps; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
        if (i >= padded) continue;
        const int line = i / S::kChunks * kRows + r, piece = i % S::kChunks / S::kSteps, step = i % S::kSteps;
        if (step == 0) shared.sums[line * 4 + piece] = static_cast<float>(sum);
        uint8_t* to = shared.elements + line * S::kXBytes + piece * (2 * S::kHalfBytes) + step * 8;
        *reinterpret_cast<uint2*>(to) = high;
        *reinterpret_cast<uint2*>(to + S::kHalfBytes) = low;
      }
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
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < S::kAtOnce; ++i) {
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
      }
    }
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

  static __device__ __forceinline__ void Step(int (&products)[4], const uint32_t (&codes)[2][4], int step, uint32_t b0,
                                              uint32_t b1) {
    if constexpr (kType == DType::kI4) {
      const uint32_t w0 = codes[0][step], w1 = codes[1][step];
      MmaU8S8(products, w0 & kNibbles, w1 & kNibbles, w0 >> 4 & kNibbles, w1 >> 4 & kNibbles, b0, b1);
    } else {
      MmaS8(products, codes[0][2 * step], codes[1][2 * step], codes[0][2 * step + 1], codes[1][2 * step + 1], b0, b1);
    }
  }

  float sums_[kRows][2];     // of the lane's piece of four: outputs g, g + 8
  float units_[kRows] = {};  // what 1 of a row's fixed point stands for
};

}  // namespace duo::cuda
