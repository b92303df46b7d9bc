// few_rows.cuh's products for int4 codes in groups of one level, by code_tiles.cuh: any number of slots up to 8 of an
// expert reads its codes once and takes as long as one. How k is cut among warps follows from k alone, so that a slot
// has the same bits whatever rows are beside it.
#pragma once

#include "kernels/cuda/experts/code_tiles.cuh"
#include "kernels/cuda/experts/few_rows.cuh"

namespace duo::cuda {

constexpr int kUpDepth = 4, kDownDepth = 6;       // blocks of k that a warp has under way
constexpr size_t kTileShared = size_t{96} << 10;  // of x: two blocks fit a multiprocessor

// Warps that share a tile's k: so many that each can have all of its blocks under way, up to all of a block's.
inline int TileParts(int64_t cols) {
  int parts = 1;
  while (parts < kExpertWarps && CeilDiv(CeilDiv(cols, kTileColumns), parts) > kDownDepth) parts *= 2;
  return parts;
}

// A warp's share of k: blocks [first, end).
struct TileShare {
  int first, end;
  __device__ TileShare(int64_t cols, int part, int parts) {
    const int blocks = static_cast<int>(CeilDiv(cols, kTileColumns));
    first = blocks * part / parts;
    end = blocks * (part + 1) / parts;
  }
};

// Where a warp leaves a tile's sums: [slot][output].
using TileSums = float[kTileSlots][kTileOutputs];
__device__ __forceinline__ void LeaveSums(TileSums& sums, const float (&totals)[4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[2 * c + i % 2][g + i / 2 * 8] = totals[i];
}
__device__ __forceinline__ float AddSums(const TileSums* of_parts, int parts, int slot, int output) {
  float sum = of_parts[0][slot][output];
  for (int part = 1; part < parts; ++part) sum += of_parts[part][slot][output];
  return sum;
}

// What the kernels for lists of slots have in common: a block's warps have tiles of one chosen expert, `parts` warps a
// tile; at_once slots of it at a time, as shared memory holds them. row(tile, output): of the bank. finish(tile, slot,
// slot's id, sums of the tile's parts): by one thread an output of it, of `outputs`.
struct TileWork {
  int parts, at_once;
};
template <int kGroup, int kDepth, typename Row, typename Finish>
__device__ __forceinline__ void ForTiles(const ExpertProduct& p, const ChosenExpert& of, const TileWork& work,
                                         int outputs, const Row& row, const Finish& finish) {
  extern __shared__ uint4 shared_x[];
  __shared__ TileSums sums[kExpertWarps];
  __shared__ int ids[kTileSlots];
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, tiles = kExpertWarps / work.parts;
  const int64_t first_tile = int64_t{blockIdx.x} * tiles, tile = first_tile + warp / work.parts;
  const int64_t rows[2] = {row(tile, g), row(tile, g + 8)};
  const TileShare share(p.bank.cols, warp % work.parts, work.parts);
  const SharedSlots x(shared_x, p.bank.cols, kGroup, work.at_once);
  CodeTile<kGroup, kDepth> codes;
  codes.Start(p.bank, rows, share.first, share.end);
  WaitForDependency();
  LetDependentsStart();
  for (int first = of.begin; first < of.end; first += work.at_once) {
    const int count = min(work.at_once, of.end - first);
    if (first > of.begin) codes.Start(p.bank, rows, share.first, share.end);
    auto slot_at = [&](int s) { return first + s == of.begin ? of.first_slot : p.lists.slots[first + s]; };
    if (threadIdx.x < count) ids[threadIdx.x] = slot_at(threadIdx.x);
    StageSlots<kGroup>(x, p.bank.cols, count, [&](int s) { return p.x + slot_at(s) / p.slots_a_row * p.x_stride; });
    __syncthreads();
    float totals[4];
    codes.Multiply(x, 0, count, totals);
    LeaveSums(sums[warp], totals);
    __syncthreads();
    for (int i = threadIdx.x; i < tiles * count * outputs; i += blockDim.x) {
      const int output = i % outputs, slot = i / outputs % count, t = i / outputs / count;
      finish(first_tile + t, output, ids[slot], slot, sums + t * work.parts);
    }
    __syncthreads();  // before the next slots' sums and ids
  }
}

// GateUpKernel. A tile has eight columns of gate and the same of up. Grid: blocks of tiles, chosen experts.
template <int kGroup>
__global__ void __launch_bounds__(32 * kExpertWarps, kGroup == kTileColumns ? 3 : 2)
    TileGateUpKernel(bf16* product, ExpertProduct p, Gating gating, TileWork work) {
  WaitForDependency();  // for the lists; the kernel after the next may rely on them from its beginning
  const ChosenExpert of = ExpertOfBlock(p.lists);
  if (of.expert < 0) return;
  const int64_t n = p.bank.rows / p.experts / 2, first_row = int64_t{of.expert} * 2 * n;
  auto row = [&](int64_t tile, int output) {
    return first_row + min(tile * 8 + output % 8, n - 1) + (output < 8 ? 0 : n);
  };
  const auto finish = [&](int64_t tile, int output, int id, int slot, const TileSums* sums) {
    const int64_t column = tile * 8 + output;
    if (column >= n) return;
    float half[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      half[h] = AddSums(sums, work.parts, slot, output + 8 * h);
      if (p.bank.bias != nullptr) half[h] += p.bank.bias[first_row + h * n + column];
      half[h] = ToFloat(ToBf16(half[h]));
    }
    product[id * n + column] = ToBf16(gating.Of(half[0], half[1]));
  };
  ForTiles<kGroup, kUpDepth>(p, of, work, 8, row, finish);
}

// DownKernel. Grid: blocks of tiles, chosen experts. early: the lists may be read before the kernel ahead has ended.
template <int kGroup>
__global__ void __launch_bounds__(32 * kExpertWarps, 2)
    TileDownKernel(float* y, ExpertProduct p, TileWork work, bool early) {
  if (!early) WaitForDependency();
  const ChosenExpert of = ExpertOfBlock(p.lists);
  if (of.expert < 0) return;
  const int64_t dim = p.bank.rows / p.experts, first_row = of.expert * dim;
  auto row = [&](int64_t tile, int output) { return first_row + min(tile * kTileOutputs + output, dim - 1); };
  const auto finish = [&](int64_t tile, int output, int id, int slot, const TileSums* sums) {
    const int64_t column = tile * kTileOutputs + output;
    if (column >= dim) return;
    float sum = AddSums(sums, work.parts, slot, output);
    if (p.bank.bias != nullptr) sum += p.bank.bias[first_row + column];
    y[id * dim + column] = sum;
  };
  ForTiles<kGroup, kDownDepth>(p, of, work, kTileOutputs, row, finish);
}

// Of one row: out [dim] = sum over its experts of weight * down, a block for 16 outputs, a job of a warp for an expert
// and a part of k. Shared memory: x of all slots, then [job][output] sums.
template <int kGroup>
__global__ void __launch_bounds__(32 * kExpertWarps, 2)
    TileDownOneRowKernel(bf16* out, ExpertProduct p, Routing routing, int parts, bool early) {
  extern __shared__ uint4 shared_x[];
  const int64_t dim = p.bank.rows / p.experts, first_output = int64_t{blockIdx.x} * kTileOutputs;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, jobs = routing.chosen * parts;
  const SharedSlots x(shared_x, p.bank.cols, kGroup, routing.chosen);
  float* sums = x.sums + RoundUp(x.groups * routing.chosen, 4);
  CodeTile<kGroup, kDownDepth> codes;
  auto start = [&](int job) {
    const int64_t first_row = __ldcg(routing.experts + job / parts) * dim;
    const int64_t rows[2] = {first_row + min(first_output + g, dim - 1),
                             first_row + min(first_output + g + 8, dim - 1)};
    const TileShare share(p.bank.cols, job % parts, parts);
    codes.Start(p.bank, rows, share.first, share.end);
  };
  if (!early) WaitForDependency();
  if (warp < jobs) start(warp);
  WaitForDependency();
  LetDependentsStart();
  StageSlots<kGroup>(x, p.bank.cols, routing.chosen, [&](int s) { return p.x + s * p.x_stride; });
  __syncthreads();
  for (int job = warp; job < jobs; job += kExpertWarps) {
    if (job > warp) start(job);
    float totals[4];
    codes.Multiply(x, job / parts, 1, totals);
    if (lane % 4 == 0) {
      sums[job * kTileOutputs + g] = totals[0];
      sums[job * kTileOutputs + g + 8] = totals[2];
    }
  }
  __syncthreads();
  const int64_t column = first_output + threadIdx.x;
  if (threadIdx.x >= kTileOutputs || column >= dim) return;
  float all = 0;
  for (int j = 0; j < routing.chosen; ++j) {
    float sum = sums[j * parts * kTileOutputs + threadIdx.x];
    for (int part = 1; part < parts; ++part) sum += sums[(j * parts + part) * kTileOutputs + threadIdx.x];
    if (p.bank.bias != nullptr) sum += p.bank.bias[__ldcg(routing.experts + j) * dim + column];
    all = fmaf(routing.weights[j], sum, all);
  }
  out[column] = ToBf16(all);
}

}  // namespace duo::cuda
