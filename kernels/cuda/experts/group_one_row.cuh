// group_tiles.cuh's kernels of one row all of whose experts are here.
#pragma once

#include "kernels/cuda/experts/group_tiles.cuh"

namespace duo::cuda {

constexpr int kGroupStages = 8;   // tiles on their way or multiplied at once, at most
constexpr int kUpStages = 3;      // of gate and up: the more are asked for at once, the later the first one comes
constexpr int kGroupWriters = 8;  // lanes of a warp that have sums of one slot
// Of gate and up: a warp besides for each stage, which refills it and finishes its outputs. By the warps that multiply
// this was on the way from each tile to the next. Of down: one, which refills.
constexpr int GroupUpThreads(int stages) { return 32 * (kExpertWarps + stages); }
constexpr int kGroupDownThreads = 32 * (kExpertWarps + 1);

// By each warp of a team, behind what it read of a stage and what its writers left: each of these tells of its own
// stores, as a barrier orders no other thread's.
__device__ __forceinline__ void ArriveOfTeam(uint32_t done) {
  __syncwarp();
  if (threadIdx.x % 4 == 0) BarrierArrive(done);
}

// GateUpKernel of one row: the row's tiles, an expert's after another's, are dealt to the blocks in equal runs.
template <typename Codes>
__global__ void __launch_bounds__(GroupUpThreads(kUpStages), 2)
    GroupGateUpOneRowKernel(bf16* product, ExpertProduct p, Gating gating, GroupWork work) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) uint8_t group_memory[];
  __shared__ __align__(8) uint64_t barriers[2 * kGroupStages];
  const GroupMemory memory(group_memory, work);
  const SharedSlots x(memory.x, work.cols, Codes::kGroup, 1);
  float* all_sums = x.End(1);  // [2 * stages][part][16]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, of_stage = warp - kExpertWarps;
  const uint32_t full = SharedAddress(barriers), done = full + 8 * kGroupStages;
  const int64_t all = int64_t{work.tiles} * p.lists.most;
  const int begin = static_cast<int>(all * blockIdx.x / gridDim.x);
  const int count = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x) - begin;
  const auto stage_at = [&](int stage) { return memory.stages + stage * GroupMemory::StageBytes(work); };
  const auto fetch = [&](int i, int stage) {  // the i-th tile
    const int slot = (begin + i) / work.tiles, tile = (begin + i) % work.tiles;
    const int expert = p.lists.PlaceOf(__ldcg(p.lists.of_one_row + slot));
    FetchTile<Codes, true>(p.bank, work, expert, tile, SharedAddress(stage_at(stage)), full + 8 * stage);
  };
  const bool fetches = of_stage >= 0 && lane == 0;
  if (fetches) {
    BarrierInit(full + 8 * of_stage, 1);
    BarrierInit(done + 8 * of_stage, kGroupWriters * work.parts);
    BarrierInitFence();
  }
  WaitForDependency();  // for the lists; the kernel after the next may rely on them from its beginning
  LetDependentsStart();
  if (fetches && of_stage < count) fetch(of_stage, of_stage);
  StageSlots<Codes>(x, work.cols, 1, [&](int) { return p.x; });
  __syncthreads();
  const auto sums_of = [&](int stage, uint32_t parity) {
    return all_sums + (parity * work.stages + stage) * (work.parts * kTileOutputs);
  };
  if (of_stage >= 0) {
    const int n = work.outputs, stage = of_stage;
    uint32_t parity = 0;
    for (int i = stage; i < count; i += work.stages, parity ^= 1) {
      const int slot = (begin + i) / work.tiles, tile = (begin + i) % work.tiles, column = tile * 8 + lane;
      float bias = 0;
      if (p.bank.bias != nullptr) {
        const int64_t expert = p.lists.PlaceOf(__ldcg(p.lists.of_one_row + slot));
        bias = p.bank.bias[(expert * 2 + lane % 16 / 8) * n + tile * 8 + lane % 8];
      }
      BarrierWait(done + 8 * stage, parity);
      if (lane == 0 && i + work.stages < count) fetch(i + work.stages, stage);
      const float sum = AddParts(sums_of(stage, parity) + lane % 16, work.parts, kTileOutputs) + bias;
      const float half = ToFloat(ToBf16(sum)), up = __shfl_down_sync(0xffffffffu, half, 8);
      if (lane < 8) product[int64_t{slot} * n + column] = ToBf16(gating.Of(half, up));
    }
    return;
  }
  const int part = warp % work.parts, team = warp / work.parts;
  const TileShare share(work.cols, part, work.parts);
  for (int i = team; team < work.teams && i < count; i += work.teams) {
    const int stage = i % work.stages, round = i / work.stages;
    WaitForTile(full, done, work, team, stage, round);
    MultiplyStage<Codes, 1>(x, work, stage_at(stage), share, 0, 1, sums_of(stage, round & 1) + part * kTileOutputs);
    ArriveOfTeam(done + 8 * stage);
  }
#endif
}

// TileDownOneRowKernel, all of whose experts are here: a block for 16 outputs, a tile of each of the row's experts.
template <typename Codes>
__global__ void __launch_bounds__(kGroupDownThreads, 2)
    GroupDownOneRowKernel(bf16* out, ExpertProduct p, Routing routing, GroupWork work) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) uint8_t group_memory[];
  __shared__ __align__(8) uint64_t barriers[2 * kGroupStages];
  const GroupMemory memory(group_memory, work);
  const SharedSlots x(memory.x, work.cols, Codes::kGroup, work.slots);
  float* sums = x.End(work.slots);  // [slot][part][16]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = work.outputs;
  const uint32_t full = SharedAddress(barriers), done = full + 8 * kGroupStages;
  const auto stage_at = [&](int stage) { return memory.stages + stage * GroupMemory::StageBytes(work); };
  const auto fetch = [&](int slot, int stage) {
    const int expert = p.lists.PlaceOf(__ldcg(p.lists.of_one_row + slot));
    FetchTile<Codes, false>(p.bank, work, expert, blockIdx.x, SharedAddress(stage_at(stage)), full + 8 * stage);
  };
  if (warp == kExpertWarps && lane == 0) {
    for (int s = 0; s < work.stages; ++s) {
      BarrierInit(full + 8 * s, 1);
      BarrierInit(done + 8 * s, kGroupWriters * work.parts);
    }
    BarrierInitFence();
    // The kernel ahead has waited for the lists.
    for (int s = 0; s < work.stages; ++s) fetch(s, s);
  }
  WaitForDependency();
  LetDependentsStart();
  const SlotsHere<false> slots(p.lists, work.slots);
  StageSlots<Codes>(x, work.cols, work.slots, [&](int s) { return p.x + s * p.x_stride; });
  __syncthreads();
  if (warp == kExpertWarps) {
    for (int i = work.stages; lane == 0 && i < work.slots; ++i) {
      const int stage = i % work.stages;
      BarrierWait(done + 8 * stage, i / work.stages - 1 & 1);
      fetch(i, stage);
    }
    return;
  }
  const DownEnds ends(p.bank.bias, slots, routing, int64_t{blockIdx.x} * kTileOutputs, dim);
  const int part = warp % work.parts, team = warp / work.parts;
  const TileShare share(work.cols, part, work.parts);
  for (int i = team; team < work.teams && i < work.slots; i += work.teams) {
    const int stage = i % work.stages;
    WaitForTile(full, done, work, team, stage, i / work.stages);
    MultiplyStage<Codes, 1>(x, work, stage_at(stage), share, i, 1, sums + (i * work.parts + part) * kTileOutputs);
    ArriveOfTeam(done + 8 * stage);
  }
  constexpr int kOurs = 1;
  NamedSync(kOurs, 32 * kExpertWarps);
  ends.Add(sums, work.parts, work.slots);
  NamedSync(kOurs, 32 * kExpertWarps);
  ends.Store(out, sums, work.parts, slots, routing, int64_t{blockIdx.x} * kTileOutputs, dim);
#endif
}

}  // namespace duo::cuda
