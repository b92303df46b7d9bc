// One row of experts whose codes are int4 in groups or MXFP4, on Hopper: the copy engine brings whole tiles of codes,
// which lie together in a bank, to shared memory, all that a multiprocessor has room for at once, so that no warp waits
// with registers for what it asked for. Warps multiply them as code_tiles.cuh does, k cut and summed as
// few_rows_tiles.cuh cuts it: a row has the same bits by either.
#pragma once

#include "kernels/cuda/experts/few_rows_tiles.cuh"
#include "kernels/cuda/hopper/hopper_ptx.cuh"

namespace duo::cuda {

constexpr int kGroupStages = 4;   // tiles on their way or multiplied at once, at most
constexpr int kGroupWriters = 8;  // lanes of a warp that have sums of one slot
// Of gate and up: a warp besides for each stage, which refills it and finishes its outputs. By the warps that multiply
// this was on the way from each tile to the next. Of down: one, which refills.
constexpr int GroupUpThreads(int stages) { return 32 * (kExpertWarps + stages); }
constexpr int kGroupDownThreads = 32 * (kExpertWarps + 1);

// How a kernel works. A tile is 16 outputs of an expert; `parts` warps share its k, and each `parts` warps are a team
// that has every kExpertWarps / parts-th tile of a block's. Bytes are of a tile.
struct GroupWork {
  int parts, stages, tiles;  // tiles: of one expert
  int cols, groups;          // of k
  int outputs;               // of an expert, of gate alone
  int slots;                 // of x
  uint32_t code_bytes, scale_bytes;
};

// Shared memory of a kernel: [stages][x and its groups' sums][sums].
struct GroupMemory {
  uint8_t* stages;
  uint4* x;

  __device__ GroupMemory(uint8_t* memory, const GroupWork& work)
      : stages(memory), x(reinterpret_cast<uint4*>(memory + work.stages * StageBytes(work))) {}
  __host__ __device__ static uint32_t StageBytes(const GroupWork& work) { return work.code_bytes + work.scale_bytes; }
  // sums: warps' sums of a tile that it has room for.
  static size_t Bytes(const GroupWork& work, int group, int sums) {
    return size_t{StageBytes(work)} * work.stages + SharedSlots::Bytes(work.cols, group, work.slots) +
           sizeof(float) * kTileOutputs * sums;
  }
};

// A warp's sums of a tile in shared memory and its share of k: to [16]. slot: of x.
template <typename Codes>
__device__ __forceinline__ void MultiplyStage(const SharedSlots& x, const GroupWork& work, const uint8_t* stage,
                                              const TileShare& share, int slot, float* to) {
  constexpr int kAhead = 2;  // blocks whose codes are asked for together
  constexpr int kScaleBytes = Codes::kPowers ? 1 : 4;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const uint4* of_x = x.x + slot * x.stride + c;
  const float* of_sums = x.sums + slot * x.groups;
  const uint8_t *codes[2], *scales[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    codes[h] = stage + (g + 8 * h) * (work.cols / 2);
    scales[h] = stage + work.code_bytes + (g + 8 * h) * (work.groups * kScaleBytes);
  }
  TileTotals<Codes, 1> totals;
  const int blocks = work.groups / Codes::kPieces;  // whole ones of pieces
  const auto fetch = [&](int block, uint32_t(&words)[2][4], uint32_t(&of_groups)[2][4]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (Codes::kPowers) {
        const int group = block * 4 + c;
        uint4 v = {};
        of_groups[h][0] = 0;
        if (group < work.groups) {
          v = *reinterpret_cast<const uint4*>(codes[h] + group * 16);
          of_groups[h][0] = scales[h][group];
        }
        words[h][0] = v.x, words[h][1] = v.y, words[h][2] = v.z, words[h][3] = v.w;
      } else {
#pragma unroll
        for (int piece = 0; piece < Codes::kPieces; ++piece) {
          const int group = min(block * Codes::kPieces + piece, work.groups - 1);
          const uint8_t* at = codes[h] + (group * 4 + c) * Codes::kBytes;
          uint32_t* word = words[h] + piece * Codes::kWords;
          if constexpr (Codes::kBytes == 16) {
            const uint4 v = *reinterpret_cast<const uint4*>(at);
            word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
          } else if constexpr (Codes::kBytes == 8) {
            const uint2 v = *reinterpret_cast<const uint2*>(at);
            word[0] = v.x, word[1] = v.y;
          } else {
            word[0] = *reinterpret_cast<const uint32_t*>(at);
          }
          of_groups[h][piece] = reinterpret_cast<const uint32_t*>(scales[h])[group];
        }
      }
    }
  };
#pragma unroll 1
  for (int base = share.first; base < share.end; base += kAhead) {
    uint32_t words[kAhead][2][4], of_groups[kAhead][2][4];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) fetch(min(base + i, share.end - 1), words[i], of_groups[i]);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int block = base + i;
      if (block >= share.end) break;
      if constexpr (Codes::kPowers) {
        const uint32_t exponents[2] = {of_groups[i][0][0], of_groups[i][1][0]};
        totals.Add(words[i][0], words[i][1], exponents, of_x + block * 16);
      } else {
#pragma unroll
        for (int piece = 0; piece < Codes::kPieces; ++piece) {
          const int group = block * Codes::kPieces + piece, word = piece * Codes::kWords;
          if (group >= work.groups) break;
          const uint32_t pairs[2] = {of_groups[i][0][piece], of_groups[i][1][piece]};
          const float sums[2] = {of_sums[group], 0};
          totals.Add(words[i][0] + word, words[i][1] + word, pairs, of_x + (block * 4 + word) * 4, sums);
        }
      }
    }
  }
  float sums[4];
  totals.Store(sums);
  if (c == 0) to[g] = sums[0], to[g + 8] = sums[2];
}

// A tile's codes and scales -> a stage. By one thread. kUp: of the tile's gate rows, then of its up rows.
template <typename Codes, bool kUp>
__device__ __forceinline__ void FetchTile(const Weight& w, const GroupWork& work, int expert, int tile, uint32_t to,
                                          uint32_t full) {
  constexpr int kHalves = kUp ? 2 : 1, kRows = kTileOutputs / kHalves;
  const uint32_t codes = work.code_bytes / kHalves, scales = work.scale_bytes / kHalves;
  const auto* scales_of = Codes::kPowers ? static_cast<const void*>(w.exponents) : static_cast<const void*>(w.groups);
  BarrierArriveExpect(full, work.code_bytes + work.scale_bytes);
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
    // Outputs are whole halves of tiles: rows before are, too.
    const int64_t before = ((int64_t{expert} * kHalves + h) * work.outputs) / kRows + tile;
    CopyBytes(to + h * codes, static_cast<const uint8_t*>(w.data) + before * codes, codes, full);
    CopyBytes(to + work.code_bytes + h * scales, static_cast<const uint8_t*>(scales_of) + before * scales, scales,
              full);
  }
}

// Sums of parts that `warp`s left, as AddSums adds them.
__device__ __forceinline__ float AddParts(const float* sums, int parts) {
  float sum = sums[0];
  for (int part = 1; part < parts; ++part) sum += sums[part * kTileOutputs];
  return sum;
}

// By each warp of a team, behind what it read of a stage and what its writers left: each of these tells of its own
// stores, as a barrier orders no other thread's.
__device__ __forceinline__ void ArriveOfTeam(uint32_t done) {
  __syncwarp();
  if (threadIdx.x % 4 == 0) BarrierArrive(done);
}

// GateUpKernel of one row: the row's tiles, an expert's after another's, are dealt to the blocks in equal runs.
template <typename Codes>
__global__ void __launch_bounds__(GroupUpThreads(kGroupStages), 2)
    GroupGateUpKernel(bf16* product, ExpertProduct p, Gating gating, GroupWork work) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) uint8_t group_memory[];
  __shared__ __align__(8) uint64_t barriers[2 * kGroupStages];
  const GroupMemory memory(group_memory, work);
  const SharedSlots x(memory.x, work.cols, Codes::kGroup, 1);
  float* all_sums = x.sums + RoundUp(x.groups, 4);  // [2 * stages][part][16]
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
      const float sum = AddParts(sums_of(stage, parity) + lane % 16, work.parts) + bias;
      const float half = ToFloat(ToBf16(sum)), up = __shfl_down_sync(0xffffffffu, half, 8);
      if (lane < 8) product[int64_t{slot} * n + column] = ToBf16(gating.Of(half, up));
    }
    return;
  }
  const int part = warp % work.parts, teams = kExpertWarps / work.parts;
  const TileShare share(work.cols, part, work.parts);
  for (int i = warp / work.parts; i < count; i += teams) {
    const int stage = i % work.stages;
    const uint32_t parity = i / work.stages % 2;
    BarrierWait(full + 8 * stage, parity);
    MultiplyStage<Codes>(x, work, stage_at(stage), share, 0, sums_of(stage, parity) + part * kTileOutputs);
    ArriveOfTeam(done + 8 * stage);
  }
#endif
}

// TileDownOneRowKernel, all of whose experts are here: a block for 16 outputs, a tile of each of the row's experts.
template <typename Codes>
__global__ void __launch_bounds__(kGroupDownThreads, 2)
    GroupDownKernel(bf16* out, ExpertProduct p, Routing routing, GroupWork work) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) uint8_t group_memory[];
  __shared__ __align__(8) uint64_t barriers[2 * kGroupStages];
  const GroupMemory memory(group_memory, work);
  const SharedSlots x(memory.x, work.cols, Codes::kGroup, work.slots);
  float* sums = x.sums + RoundUp(x.groups * work.slots, 4);  // [slot][part][16]
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
  const int part = warp % work.parts, teams = kExpertWarps / work.parts;
  const TileShare share(work.cols, part, work.parts);
  for (int i = warp / work.parts; i < work.slots; i += teams) {
    const int stage = i % work.stages;
    BarrierWait(full + 8 * stage, i / work.stages & 1);
    MultiplyStage<Codes>(x, work, stage_at(stage), share, i, sums + (i * work.parts + part) * kTileOutputs);
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
