// Attention of few rows on Hopper, the device side: steps of answers being written, short appends, forks of one
// document. Rows of all sequences that see a page share its read (rows_plan.cuh). This file: what a launch and its
// blocks know. rows_fetch.cuh reads pages and queries, rows_decode.cuh turns codes to bf16, rows_compute.cuh attends.
//
// A block has one warp group that fetches, two that compute and, where pages are coded, one that decodes. Of a block of
// up to 64 (row, query head) pairs the two compute every other page of a range each and are added up, in that order; of
// up to 128 pairs each computes 64, over all pages. While one waits for a product, the other takes exponentials.
//
// Decoding takes most instructions. With 128 pairs they fit beside the products of two groups. With up to 64 the
// computing groups have less to do, so each decodes the values of its own pages, while its scores are computed, and the
// decoding group has the keys alone.
#pragma once

#include "kernels/cuda/hopper/rows_plan.cuh"
#include "kernels/cuda/hopper/score_rows.cuh"

namespace duo::cuda {

struct RowsWork {
  CUtensorMap pages;  // of bf16: boxes of 64 columns x 128 rows x head_dim / 64 of their memory, rows of head_dim
  const bf16* q;      // row i of query head h at q + i * q_stride + h * head_dim
  int64_t q_stride;
  bf16* out;  // likewise
  int64_t out_stride;
  float* lse;  // [heads * group][num_rows] or null
  int num_rows, num_seqs, heads, group;
  float scale;      // 1 / sqrt(head_dim) * log2 e
  const int32_t* positions;
  PagedKv kv;
  RowCuts cuts;
  RowsPlan plan;
  float* partial;      // [slot][heads * group][head_dim]
  float* partial_lse;  // [slot][heads * group]
};

// kPairs: the most (row, query head) pairs of a block, 64 or 128.
template <KvFormat kFormat, int kHeadDim, int kPairs>
struct RowsShape {
  static constexpr bool kCoded = kFormat != KvFormat::kBF16;
  static constexpr bool kOwnValues = kCoded && kPairs == 64;  // do the computing groups decode values?
  // Codes become f16, whose products with a vector's f16 parameters take half the instructions that bf16 would, and
  // which keeps three bits more. Probabilities are lifted by 2^14, so that small ones are not lost.
  static constexpr Half16 kType = kCoded ? Half16::kF16 : Half16::kBF16;
  static constexpr float kLift = kCoded ? 14 : 0;
  static constexpr int kHalves = kHeadDim / 64;
  static constexpr int kQRows = kPairs;
  // Also what one computing group tells the other: [64][64] f32.
  static constexpr int kQBytes = kQRows * kHeadDim * 2 > 64 * 64 * 4 ? kQRows* kHeadDim * 2 : 64 * 64 * 4;
  static constexpr int kTileBytes = kTileKeys * kHeadDim * 2;
  // Even, so that where the computing groups take every other tile a stage belongs to one of them: a group that saw
  // only every other phase of a barrier would mistake an old one for its own. K leaves early, V late.
  static constexpr int kKStages = kHeadDim == 64 ? 4 : 2, kVStages = kCoded ? kKStages : kHeadDim == 64 ? 6 : 4;
  static_assert(kKStages % 2 == 0 && kVStages % 2 == 0);
  // Codes as they come: the keys or the values of a page, then their parameters.
  static constexpr int kCodeBytes = kTileKeys * KvCodeBytes(kFormat, kHeadDim),
                       kParamBytes = kTileKeys * KvParamBytes(kFormat), kRawBytes = kCodeBytes + kParamBytes;
  static constexpr int kTailBytes = 512;  // items and barriers
  static constexpr int kBeside = 1024 + kQBytes + (kKStages + kVStages) * kTileBytes + kTailBytes;
  static constexpr int kMostShared = 227 * 1024, kRawRoom = (kMostShared - kBeside) / kRawBytes;
  // Keys and values in turn: where the computing groups take the values of every other page, a multiple of four, so
  // that a stage is always the same group's.
  static constexpr int kRawStages = !kCoded ? 1 : kRawRoom >= 8 ? 8 : kOwnValues ? kRawRoom / 4 * 4 : kRawRoom;
  static_assert(kRawStages >= 3 || !kCoded);
  static constexpr int kSharedBytes = kBeside + (kCoded ? kRawStages * kRawBytes : 0);
  static constexpr int kThreads = kCoded ? 512 : 384;
  static constexpr int kFetchRegisters = kCoded ? 40 : 56, kDecodeRegisters = kOwnValues ? 56 : 72,
                       kComputeRegisters = kOwnValues ? 208
                                           : kCoded   ? 200
                                                      : 224;
};

// What the fetching warp tells the others about an item. Tile t, 0 <= t < tiles, has the positions from
// position(first_page + t) on.
struct RowsItem {
  int tiles;       // -1: nothing is left
  int first_page;  // of those held here
  int head;
  int first_in_list;  // of the block's rows
  int first_row;      // (row, query head) pairs before the block, in the segment
  int pairs;          // in the segment
  int slot;           // of the segment's first row in this range
  int tokens;         // of the segment: none from here on

  __device__ __forceinline__ bool done() const { return tiles < 0; }
  // Has each computing group pairs of its own, in a block of up to kPairs?
  template <int kPairs>
  __device__ __forceinline__ bool apart() const {
    return kPairs > 64 && pairs - first_row > 64;
  }
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <typename Shape>
struct RowsBarriers : BlockBarriers {
  static constexpr int kK = Shape::kKStages, kV = Shape::kVStages;
  __device__ uint32_t KFull(int s) const { return Tile(s); }
  __device__ uint32_t KEmpty(int s) const { return Tile(kK + s); }
  __device__ uint32_t VFull(int s) const { return Tile(2 * kK + s); }
  __device__ uint32_t VEmpty(int s) const { return Tile(2 * kK + kV + s); }
  __device__ uint32_t RawFull(int s) const { return Tile(2 * kK + 2 * kV + s); }
  __device__ uint32_t RawEmpty(int s) const { return RawFull(Shape::kRawStages + s); }
  static constexpr int kBytes = 56 + 8 * 2 * (kK + kV + Shape::kRawStages);

  // A tile is given back by both computing groups, or, where they never share one, by the one that has it.
  __device__ __forceinline__ void Init() const {
    constexpr uint32_t users = Shape::kQRows > 64 ? 8 : 4;
    constexpr int kDecoders = Shape::kCoded ? 4 : 0, kFilled = Shape::kCoded ? 4 : 1;
    BarrierInit(QFull(), 96);
    BarrierInit(QEmpty(), 8);
    BarrierInit(Cleared(), 1);
    for (int i = 0; i < 2; ++i) {
      BarrierInit(ItemFull(i), 1);
      BarrierInit(ItemEmpty(i), 8 + 3 + kDecoders);
    }
    for (int s = 0; s < kK; ++s) {
      BarrierInit(KFull(s), kFilled);
      BarrierInit(KEmpty(s), users);
    }
    for (int s = 0; s < kV; ++s) {
      BarrierInit(VFull(s), kFilled);
      BarrierInit(VEmpty(s), users);
    }
    for (int s = 0; s < Shape::kRawStages; ++s) {
      BarrierInit(RawFull(s), 1);
      BarrierInit(RawEmpty(s), 4);
    }
    BarrierInitFence();
  }
};

// Where things lie in a block's shared memory.
struct RowsShared {
  uint32_t q, k, v, raw;
  RowsItem* items;  // [2]
};

// Int4 tiles have their channels in the order in which two of a word's codes lie alike: of eight, place 2 i has channel
// i and place 2 i + 1 has channel i + 4. Queries are laid out likewise; of the output, places 2 c and 2 c + 1 of eight
// at `to` are stored here.
template <KvFormat kFormat>
__device__ __forceinline__ void StorePlaces(float* to, int c, float2 x) {
  if constexpr (kFormat == KvFormat::kInt4) {
    to[c] = x.x;
    to[c + 4] = x.y;
  } else {
    *reinterpret_cast<float2*>(to + 2 * c) = x;
  }
}

// Position of the first token of the q-th page held here.
__device__ __forceinline__ int PositionOf(const PagedKv& kv, int q) {
  return (kv.slots == 1 ? q : q / kv.num_slots * kv.slots + kv.first_slot + q % kv.num_slots) * kPageTokens;
}
#endif

}  // namespace duo::cuda
