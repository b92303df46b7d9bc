// What linear_small.cuh's kernel reads of a weight: k-blocks of codes, and the scales of their groups. Registers of one
// warp; no memory of their own.
#pragma once

#include "kernels/cuda/primitives.cuh"
#include "kernels/ops.h"

namespace duo::cuda {

// A k-block: 16 bytes of codes in each lane, of two output rows. Groups smaller than the block are read in pieces, so
// that a piece's four lanes lie in one group. kGroup 0: no groups.
template <DType kType, int kGroup>
struct BlockShape {
  static constexpr bool kInteger = kType == DType::kI8 || kType == DType::kI4;
  static constexpr bool kGrouped = kGroup > 0;
  static constexpr int kBits = kType == DType::kI4 ? 4 : kType == DType::kBF16 || kType == DType::kF16 ? 16 : 8;
  static constexpr int kColumns = 4 * 128 / kBits;  // k's of a block: 32, 64 or 128
  static constexpr int kPieces = kGrouped && kGroup < kColumns ? kColumns / kGroup : 1;
  static constexpr int kPieceBytes = 16 / kPieces;
  static constexpr int kChunks = kColumns / 8;               // 8 consecutive x
  static constexpr int kLaneChunks = kChunks / kPieces / 4;  // of a piece, that meet one lane's weights
  static constexpr bool kHalfChunks = kLaneChunks == 0;      // half a chunk does: int8 in groups of 16
  static constexpr int kXBytes = kColumns * 2;               // x of a block and row: bf16, or high and low bytes
  static constexpr int kXSums = kGrouped ? kPieces : 0;      // and the sums of its groups, f32
  static constexpr int kDepth = kType == DType::kI8 && !kGrouped ? 8 : 4;  // k-blocks in flight per warp
};

template <DType kType, int kGroup>
struct RawBlock {
  using S = BlockShape<kType, kGroup>;
  uint32_t w[2][4];

  // codes: of the lane's two output rows, its own bytes of the share's first block.
  __device__ __forceinline__ void Load(const uint8_t* const (&codes)[2], int block) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int p = 0; p < S::kPieces; ++p) {
        LoadStreaming<S::kPieceBytes>(&w[h][p * S::kPieceBytes / 4], codes[h] + block * 64 + p * 4 * S::kPieceBytes);
      }
    }
  }
};

// Where the codes and parameters of a unit's share of k lie for a lane: worked out once a unit, so that a load is an
// addition.
struct UnitPlace {
  const uint8_t* codes[2];    // of output rows g and g + 8 of the tile
  const uint32_t* params[2];  // groups: pairs of f16; of two levels those of the whole row
  const uint32_t* subs[2];    // two levels: pairs of bytes
  int first, shift;           // two levels: the share's first k-block in the row; log2 of k-blocks per pair
  int part, tile, blocks;     // blocks: of this warp
};

// The scales and minima of four blocks' groups. A lane quarter holds one block's, and gives them to its neighbours:
// loads of every block's by every lane took a fifth of the kernel's time.
template <DType kType, int kGroup, bool kTwo>
struct GroupParams {
  using S = BlockShape<kType, kGroup>;
  static_assert(!S::kGrouped || S::kDepth == 4);
  static constexpr int kWords = kTwo ? S::kPieces / 2 : S::kPieces;  // of a block: two groups' bytes, or one's f16
  uint32_t own[2][kWords], pair[2];                                  // pair: two levels, of the block

  // What a lane takes from its neighbours for one block.
  struct OfBlock {
    uint32_t words[2][kWords], pair[2];
  };

  __device__ __forceinline__ void Load(const UnitPlace& place, int block, int blocks, int c) {
    if constexpr (S::kGrouped) {
      if (block + c >= blocks) return;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if constexpr (kTwo) {
          LoadStreaming<4 * kWords>(own[h], place.subs[h] + (block + c) * kWords);
          LoadStreaming<4>(&pair[h], place.params[h] + ((place.first + block + c) >> place.shift));
        } else {
          LoadStreaming<4 * kWords>(own[h], place.params[h] + (block + c) * kWords);
        }
      }
    }
  }
  // Of two levels everything at once: a word is two groups'. Of one level nothing yet.
  __device__ __forceinline__ OfBlock Fetch(int block_of_four, int lane) const {
    OfBlock of;
    if constexpr (kTwo) {
      const int from = lane / 4 * 4 + block_of_four;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        of.pair[h] = __shfl_sync(0xffffffffu, pair[h], from);
#pragma unroll
        for (int i = 0; i < kWords; ++i) of.words[h][i] = __shfl_sync(0xffffffffu, own[h][i], from);
      }
    }
    return of;
  }
  // The scale and the minimum of output row h's piece.
  __device__ __forceinline__ float2 Of(const OfBlock& of, int block_of_four, int h, int piece, int lane) const {
    if constexpr (kTwo) {
      const uint32_t word = of.words[h][piece / 2];
      const int first = piece % 2 * 2;
      return {F16Value(of.pair[h]) * Int8Value(word, first), F16Value(of.pair[h] >> 16) * Int8Value(word, first + 1)};
    } else {
      const uint32_t word = __shfl_sync(0xffffffffu, own[h][piece], lane / 4 * 4 + block_of_four);
      return {F16Value(word), F16Value(word >> 16)};
    }
  }
};

}  // namespace duo::cuda
