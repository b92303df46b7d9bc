// group_tiles.cuh's kernels of lists of slots. A block has a multiprocessor for itself: x of up to eight slots lies in
// shared memory once, for twice as many warps as otherwise.
#pragma once

#include "kernels/cuda/experts/group_tiles.cuh"

namespace duo::cuda {

constexpr int kListWarps = 16;  // that multiply
constexpr int kListStages = 8;  // tiles on their way or multiplied at once, at most
// A warp besides for each stage, which refills it and finishes its outputs.
constexpr int ListThreads(int stages) { return 32 * (kListWarps + stages); }
constexpr int kListSums = kTileSlots * kTileOutputs;  // that a warp leaves

// What both kernels do: the lists' tiles are dealt to the blocks in equal runs, a run's to its stages and teams in
// turn. bias(expert, tile) of output lane % 16; store(tile, slot's id, sum with bias) by a whole warp, of two slots at
// once, output lane % 16 of each; `there` is false where there is no second slot.
template <typename Codes, bool kUp, typename Bias, typename Store>
__device__ __forceinline__ void ForListTiles(const ExpertProduct& p, const GroupWork& work, const Bias& bias,
                                             const Store& store) {
  extern __shared__ __align__(128) uint8_t group_memory[];
  __shared__ __align__(8) uint64_t barriers[2 * kListStages];
  const GroupMemory memory(group_memory, work);
  const SharedSlots x(memory.x, work.cols, Codes::kGroup, work.slots);
  float* all_sums = x.End(work.slots);  // [stage][part][slot][16]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, of_stage = warp - kListWarps;
  const uint32_t full = SharedAddress(barriers), done = full + 8 * kListStages;
  const TileWork dealt = {work.parts, work.slots, work.tiles};
  UnitWalk walk(p.lists, dealt);
  if (walk.done) return;
  const auto slot_at = [&](int s) {
    return walk.first_slot + s == walk.of.begin ? walk.of.first_slot : p.lists.slots[walk.first_slot + s];
  };
  const auto stage_at = [&](int stage) { return memory.stages + stage * GroupMemory::StageBytes(work); };
  const auto sums_of = [&](int stage) { return all_sums + stage * (work.parts * kListSums); };
  if (threadIdx.x == 0) {
    for (int s = 0; s < work.stages; ++s) BarrierInit(full + 8 * s, 1), BarrierInit(done + 8 * s, 32 * work.parts);
    BarrierInitFence();
  }
  __syncthreads();
  if (of_stage >= 0) {
    const int stage = of_stage;
    const auto advance = [&](UnitWalk& by) {
      for (int i = 0; i < work.stages && !by.done; ++i) by.Next(p.lists, dealt);
    };
    const auto fetch = [&](const UnitWalk& at) {
      if (lane != 0) return;
      FetchTile<Codes, kUp>(p.bank, work, at.of.expert, at.unit, SharedAddress(stage_at(stage)), full + 8 * stage);
    };
    for (int i = 0; i < stage && !walk.done; ++i) walk.Next(p.lists, dealt);
    UnitWalk ahead = walk;
    if (!ahead.done) fetch(ahead);
    WaitForDependency();  // for those who read what it stores
    LetDependentsStart();
    for (uint32_t parity = 0; !walk.done; parity ^= 1) {
      const int count = min(work.slots, walk.of.end - walk.first_slot);
      const int id = slot_at(min(lane, count - 1));
      const float of_output = bias(walk.of.expert, walk.unit);
      BarrierWait(done + 8 * stage, parity);
      const float* sums = sums_of(stage) + lane;  // of two slots
      for (int s = 0; s < count; s += 2) {
        const float sum = AddParts(sums + s * kTileOutputs, work.parts, kListSums) + of_output;
        const int slot = s + lane / kTileOutputs;
        store(walk.unit, __shfl_sync(0xffffffffu, id, slot), slot < count, sum);
      }
      __syncwarp();  // the stage's sums are read before its next codes come
      advance(ahead);
      if (!ahead.done) fetch(ahead);
      advance(walk);
    }
    return;
  }
  WaitForDependency();
  LetDependentsStart();
  const int part = warp % work.parts, team = warp / work.parts;
  const TileShare share(work.cols, part, work.parts);
  constexpr int kOurs = 1;
  int stage = 0, turn = 0, round = 0;
  for (; !walk.done; walk.Next(p.lists, dealt)) {
    const int count = min(work.slots, walk.of.end - walk.first_slot);
    if (walk.new_slots) {
      NamedSync(kOurs, 32 * kListWarps);  // everybody is done with x
      StageSlots<Codes, 32 * kListWarps>(x, work.cols, count,
                                         [&](int s) { return p.x + slot_at(s) / p.slots_a_row * p.x_stride; });
      NamedSync(kOurs, 32 * kListWarps);
    }
    if (turn == team) {
      WaitForTile(full, done, work, team, stage, round);
      MultiplyStage<Codes, 2>(x, work, stage_at(stage), share, 0, count, sums_of(stage) + part * kListSums);
      BarrierArrive(done + 8 * stage);
    }
    if (++turn == work.teams) turn = 0;
    if (++stage == work.stages) stage = 0, ++round;
  }
}

// GateUpKernel.
template <typename Codes>
__global__ void __launch_bounds__(ListThreads(kListStages), 1)
    GroupGateUpKernel(bf16* product, ExpertProduct p, Gating gating, GroupWork work) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  WaitForDependency();  // for the lists; the kernel after the next may rely on them from its beginning
  const int n = work.outputs, lane = threadIdx.x % 32;
  const auto bias = [&](int expert, int tile) {
    return p.bank.bias == nullptr ? 0.0f : p.bank.bias[(int64_t{expert} * 2 + lane % 16 / 8) * n + tile * 8 + lane % 8];
  };
  const auto store = [&](int tile, int id, bool there, float sum) {
    const float half = ToFloat(ToBf16(sum)), up = __shfl_down_sync(0xffffffffu, half, 8);
    if (there && lane % 16 < 8) product[int64_t{id} * n + tile * 8 + lane % 8] = ToBf16(gating.Of(half, up));
  };
  ForListTiles<Codes, true>(p, work, bias, store);
#endif
}

// DownKernel. early: the lists may be read before the kernel ahead has ended.
template <typename Codes>
__global__ void __launch_bounds__(ListThreads(kListStages), 1)
    GroupDownKernel(float* y, ExpertProduct p, GroupWork work, bool early) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if (!early) WaitForDependency();
  const int dim = work.outputs, lane = threadIdx.x % 32;
  const auto bias = [&](int expert, int tile) {
    return p.bank.bias == nullptr ? 0.0f : p.bank.bias[int64_t{expert} * dim + tile * 16 + lane % 16];
  };
  const auto store = [&](int tile, int id, bool there, float sum) {
    if (there) y[int64_t{id} * dim + tile * 16 + lane % 16] = sum;
  };
  ForListTiles<Codes, false>(p, work, bias, store);
#endif
}

}  // namespace duo::cuda
