// Products of many rows with a mixture's int4 codes on Hopper's tensor cores: one launch for all experts. Codes are
// decoded in registers, as linear_tiles.cuh does it, and met there by x in shared memory.
//
// A unit of work is 128 outputs of one expert times a tile of up to 256 of its slots (sort_slots.h). Blocks, one a
// multiprocessor, take units in turn, a tile's outputs one after the other, so that its x and its expert's codes come
// from the L2. One thread fetches ahead, across units; two warp groups have 64 outputs each, and need not wait for each
// other at a unit's end: while one stores, the other multiplies.
//
// Gate and up are outputs g and g + 8 of a warp's 16, so a lane has both of a column. Their product is stored as the x
// of the next launch: the same layout, 64 columns of a tile a unit.
#pragma once

#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/experts/few_rows.cuh"
#include "kernels/cuda/experts/sort_slots.h"
#include "kernels/cuda/hopper/score_rows.cuh"
#include "kernels/cuda/linear/tile_codes.cuh"

namespace duo::cuda {

struct GroupedWork {
  CUtensorMap codes;  // of the bank: boxes of 64 bytes x GroupedShape::kBoxRows
  Weight bank;
  int experts, units;  // units: of a tile
  const bf16* x;       // [tile][64 columns][padded rows][64], as PackSlotsKernel lays them out
  bf16* out;           // up: the product, alike; down: [places][outputs]
  const SortedTile* tiles;
  const int32_t* tile_count;
  int blocks;  // of 128 columns
  int pair_shift, group_shift;
  Gating gating;
};

template <bool kUp>
struct GroupedShape {
  static constexpr int kOutputs = 128;
  static constexpr int kBoxRows = kUp ? 16 : kOutputs;  // up: so many of a unit's gate or up rows lie together
  static constexpr int kCodeBytes = kOutputs * 64, kCodeStages = 3;  // of 128 columns
  static constexpr int kXBytes = kSortedRows * 128, kXStages = 6;    // of 64 columns
  static constexpr int kCodesAt = kXStages * kXBytes, kBarriersAt = kCodesAt + kCodeStages * kCodeBytes;
  static constexpr int kSharedBytes = 1024 + kBarriersAt + 16 * (kCodeStages + kXStages);
  static constexpr int kThreads = 384;

  // The first row of the bank of a unit's box `box`, which goes to rows box * kBoxRows of a stage.
  __device__ __forceinline__ static int BoxRow(const GroupedWork& w, int expert, int unit, int box) {
    if constexpr (!kUp) return expert * w.units * kOutputs + unit * kOutputs;
    const int n = w.units * 64;
    return (expert * 2 + box / 4) * n + unit / 2 * 128 + box % 4 * 32 + unit % 2 * 16;
  }
  // Where output g + 8 h of warp `warp` is in a stage, and which row of the bank that is.
  __device__ __forceinline__ static int StageRow(int warp, int g, int h) {
    return kUp ? h * 64 + g / 2 * 16 + 2 * warp + g % 2 : warp * 16 + g + 8 * h;
  }
  __device__ __forceinline__ static int64_t BankRow(const GroupedWork& w, int expert, int unit, int stage_row) {
    return BoxRow(w, expert, unit, stage_row / kBoxRows) + stage_row % kBoxRows;
  }
};

// A thread has 16 columns of a place: those of one step (linear_tiles.cuh's PackRows). Grid: tiles, eighths of their
// rows. Places of nobody keep what they held: a place's sums are its own, and nobody reads those.
__global__ void PackSlotsKernel(bf16* packed, const bf16* x, int64_t stride, SortedSlots sorted, int chosen, int cols) {
  using Codes = TileCodes<DType::kI4, 1>;
  StartOverlapped();
  if (static_cast<int>(blockIdx.x) >= *sorted.count) return;
  const SortedTile tile = sorted.tiles[blockIdx.x];
  const int steps = cols / 16, padded = tile.padded();
  constexpr int kRows = kSortedRows / 8;
  const int first = blockIdx.y * kRows, here = min(kRows, tile.rows - first);
  for (int i = threadIdx.x; i < here * steps; i += blockDim.x) {
    const int row = first + i / steps, step = i % steps;
    const int slot = sorted.slots[tile.first + row];
    const bf16* from = x + slot / chosen * stride + step / Codes::kSteps * Codes::kColumns + step % Codes::kSteps * 4;
    uint2 fours[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) fours[c] = *reinterpret_cast<const uint2*>(from + c * Codes::kLaneColumns);
    uint4* to = reinterpret_cast<uint4*>(packed + int64_t{tile.first} * cols + (int64_t{step / 4} * padded + row) * 64);
    to[(step % 4 * 2) ^ (row % 8)] = {fours[0].x, fours[1].x, fours[2].x, fours[3].x};
    to[(step % 4 * 2 + 1) ^ (row % 8)] = {fours[0].y, fours[1].y, fours[2].y, fours[3].y};
  }
}

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct GroupedBarriers {
  uint32_t base;
  __device__ uint32_t CodesFull(int i) const { return base + 16 * i; }
  __device__ uint32_t CodesEmpty(int i) const { return base + 16 * i + 8; }
  __device__ uint32_t XFull(int i) const { return base + 16 * (GroupedShape<true>::kCodeStages + i); }
  __device__ uint32_t XEmpty(int i) const { return XFull(i) + 8; }
};

// The stages that come next.
template <bool kUp>
struct GroupedRings {
  Ring<GroupedShape<kUp>::kCodeStages> codes;
  Ring<GroupedShape<kUp>::kXStages> x;
};

// By one thread: fetches the stages of one unit.
template <bool kUp>
__device__ __forceinline__ void FetchUnit(const GroupedWork& w, uint32_t shared, const GroupedBarriers& barriers,
                                          const SortedTile& tile, int unit, GroupedRings<kUp>& rings) {
  using Shape = GroupedShape<kUp>;
  const int padded = tile.padded();
  const bf16* x = w.x + int64_t{tile.first} * w.bank.cols;
  for (int block = 0; block < w.blocks; ++block) {
    const int stage = rings.codes.stage;
    BarrierWait(barriers.CodesEmpty(stage), rings.codes.phase ^ 1);
    BarrierArriveExpect(barriers.CodesFull(stage), Shape::kCodeBytes);
#pragma unroll
    for (int box = 0; box < Shape::kOutputs / Shape::kBoxRows; ++box) {
      CopyBox2(shared + Shape::kCodesAt + stage * Shape::kCodeBytes + box * Shape::kBoxRows * 64, &w.codes, block * 64,
               Shape::BoxRow(w, tile.expert, unit, box), barriers.CodesFull(stage));
    }
    rings.codes.Next();
#pragma unroll
    for (int sub = 0; sub < 2; ++sub) {
      const int x_stage = rings.x.stage;
      BarrierWait(barriers.XEmpty(x_stage), rings.x.phase ^ 1);
      BarrierArriveExpect(barriers.XFull(x_stage), padded * 128);
      CopyBytes(shared + x_stage * Shape::kXBytes, x + (int64_t{block} * 2 + sub) * padded * 64, padded * 128,
                barriers.XFull(x_stage));
      rings.x.Next();
    }
  }
}

// A computing warp group's sums of one unit: 64 outputs, kParts times 128 rows.
template <bool kUp, int kLevels, int kParts>
__device__ __forceinline__ void MultiplyUnit(const GroupedWork& w, uint32_t shared, const GroupedBarriers& barriers,
                                             const SortedTile& tile, int unit, GroupedRings<kUp>& rings,
                                             float (&sums)[2][64]) {
  using Shape = GroupedShape<kUp>;
  using Codes = TileCodes<DType::kI4, kLevels>;
  using Group = typename Codes::Group;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
  GroupReader<Codes> readers[2];
  auto load_groups = [&](int block) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      readers[h].Load(w.bank, block * Codes::kColumns + c * Codes::kLaneColumns, w.pair_shift, w.group_shift);
    }
  };
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    readers[h].Start(w.bank, Shape::BankRow(w, tile.expert, unit, Shape::StageRow(warp, g, h)));
  }
  load_groups(0);
  uint32_t pairs[2][4][4];  // while the products of one set are under way, the other is made
  auto release_x = [&](int stages_ago) {
    const int stage = rings.x.stage - stages_ago;
    if (lane == 0) BarrierArrive(barriers.XEmpty(stage < 0 ? stage + Shape::kXStages : stage));
  };
#pragma unroll 1
  for (int block = 0; block < w.blocks; ++block) {
    BarrierWait(barriers.CodesFull(rings.codes.stage), rings.codes.phase);
    uint4 codes[2];
    Group groups[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      codes[h] = LoadShared16(shared + Shape::kCodesAt + rings.codes.stage * Shape::kCodeBytes +
                              Shape::StageRow(warp, g, h) * 64 + c * 16);
      groups[h] = readers[h].template Value<Group>();
    }
    SharedStoresFence();  // the codes are in registers: the copy engine will write there again
    __syncwarp();
    if (lane == 0) BarrierArrive(barriers.CodesEmpty(rings.codes.stage));
    rings.codes.Next();
    if (block + 1 < w.blocks) load_groups(block + 1);
#pragma unroll
    for (int sub = 0; sub < 2; ++sub) {
      WgmmaWait<1>();  // the products but the last 64 columns' are done: this set may be written, their x be replaced
      if (block > 0) release_x(2);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          Codes::Pairs(codes[h], 4 * sub + step, groups[h], pairs[sub][step][h], pairs[sub][step][2 + h]);
        }
        Pin(pairs[sub][step]);
      }
      BarrierWait(barriers.XFull(rings.x.stage), rings.x.phase);
      const uint64_t x = Operand(shared + rings.x.stage * Shape::kXBytes, 1024, 16);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
          WgmmaRegisters<Half16::kBF16, RowsAlong::kK>(sums[p], pairs[sub][step], Ahead(x, p * (128 * 128) + step * 32),
                                                       sub > 0 || step > 0 || block > 0 ? 1 : 0);
        }
      }
      WgmmaCommit();
      rings.x.Next();
    }
  }
  WgmmaWait<0>();
#pragma unroll
  for (int p = 0; p < kParts; ++p) Pin(sums[p]);
  release_x(2);
  release_x(1);
}

template <bool kUp, int kParts>
__device__ __forceinline__ void StoreUnit(const GroupedWork& w, const SortedTile& tile, int unit,
                                          const float (&sums)[2][64]) {
  using Shape = GroupedShape<kUp>;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
  float bias[2] = {};
  if (w.bank.bias != nullptr) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      bias[h] = w.bank.bias[Shape::BankRow(w, tile.expert, unit, Shape::StageRow(warp, g, h))];
    }
  }
  const int padded = tile.padded();
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const int first = p * 128 + j * 8;
      if (first >= tile.rows) break;
      const float(&s)[64] = sums[p];
      if constexpr (kUp) {
        float products[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          products[i] =
              w.gating.Of(ToFloat(ToBf16(s[4 * j + i] + bias[0])), ToFloat(ToBf16(s[4 * j + 2 + i] + bias[1])));
        }
        // A lane had a column's product of rows 2 c and the next; now it has columns 2 c and the next of row g.
        const uint32_t two = Transpose8x8(PackBf16(products[0], products[1]));
        if (first + g < tile.rows) {
          bf16* to = w.out + int64_t{tile.first} * (w.units * 64) + (int64_t{unit} * padded + first + g) * 64;
          reinterpret_cast<uint32_t*>(to)[(warp ^ g) * 4 + c] = two;
        }
      } else {
        // Two outputs of row g alike.
        const uint32_t low = Transpose8x8(PackBf16(s[4 * j] + bias[0], s[4 * j + 1] + bias[0]));
        const uint32_t high = Transpose8x8(PackBf16(s[4 * j + 2] + bias[1], s[4 * j + 3] + bias[1]));
        if (first + g < tile.rows) {
          bf16* to = w.out + (tile.first + first + g) * int64_t{w.units} * Shape::kOutputs + unit * Shape::kOutputs +
                     warp * 16 + 2 * c;
          *reinterpret_cast<uint32_t*>(to) = low;
          *reinterpret_cast<uint32_t*>(to + 8) = high;
        }
      }
    }
  }
}

template <bool kUp, int kLevels>
__global__ void __launch_bounds__(384, 1) GroupedTiles(const __grid_constant__ GroupedWork w) {
  using Shape = GroupedShape<kUp>;
  extern __shared__ uint8_t raw_shared[];
  const uint32_t shared = (SharedAddress(raw_shared) + 1023) & ~1023u;
  const GroupedBarriers barriers = {shared + Shape::kBarriersAt};
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kCodeStages; ++i) {
      BarrierInit(barriers.CodesFull(i), 1);
      BarrierInit(barriers.CodesEmpty(i), 8);
    }
    for (int i = 0; i < Shape::kXStages; ++i) {
      BarrierInit(barriers.XFull(i), 1);
      BarrierInit(barriers.XEmpty(i), 8);
    }
    BarrierInitFence();
  }
  __syncthreads();
  LetDependentsStart();
  WaitForDependency();
  const int all = *w.tile_count * w.units;
  GroupedRings<kUp> rings;
  if (threadIdx.x >= 256) {
    ShrinkRegisters<24>();
    if (threadIdx.x != 256) return;
    for (int i = blockIdx.x; i < all; i += gridDim.x) {
      FetchUnit<kUp>(w, shared, barriers, w.tiles[i / w.units], i % w.units, rings);
    }
    return;
  }
  GrowRegisters<240>();
  float sums[2][64];
  for (int i = blockIdx.x; i < all; i += gridDim.x) {
    const SortedTile tile = w.tiles[i / w.units];
    const int unit = i % w.units;
    if (Uniform(tile.rows) > 128) {
      MultiplyUnit<kUp, kLevels, 2>(w, shared, barriers, tile, unit, rings, sums);
      StoreUnit<kUp, 2>(w, tile, unit, sums);
    } else {
      MultiplyUnit<kUp, kLevels, 1>(w, shared, barriers, tile, unit, rings, sums);
      StoreUnit<kUp, 1>(w, tile, unit, sums);
    }
  }
}
#else
template <bool kUp, int kLevels>
__global__ void GroupedTiles(const __grid_constant__ GroupedWork) {}
#endif

}  // namespace duo::cuda
