// Experts whose codes are int4 in groups or MXFP4, on Hopper: the copy engine brings whole tiles of codes, which lie
// together in a bank, to shared memory, as many as a multiprocessor has room for, so that no warp waits with registers
// for what it asked for. Warps multiply them as code_tiles.cuh does, k cut and summed as few_rows_tiles.cuh cuts it: a
// slot has the same bits by either, alone or beside others. Here is what kernels of one row and of lists share.
#pragma once

#include <numeric>
#include <type_traits>

#include "kernels/cuda/experts/few_rows_tiles.cuh"
#include "kernels/cuda/hopper/hopper_ptx.cuh"

namespace duo::cuda {

// How a kernel works. A tile is 16 outputs of an expert; `parts` warps share its k, and each `parts` warps are a team.
// A block's tiles go round its stages and its teams. Two teams at most take turns at a stage (TeamsFor): a barrier
// knows its present phase from the one before, not from earlier ones. Bytes are of a tile.
struct GroupWork {
  int parts, teams, stages, tiles;  // tiles: of one expert
  int cols, groups;                 // of k
  int outputs;                      // of an expert, of gate alone
  int slots;                        // of x, at once
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

// A warp's sums of a tile in shared memory and its share of k: to [slot][16]. Of x's slots `count` from first_slot on;
// kSlots 1: of one, otherwise of up to kTileSlots.
template <typename Codes, int kSlots>
__device__ __forceinline__ void MultiplyStage(const SharedSlots& x, const GroupWork& work, const uint8_t* stage,
                                              const TileShare& share, int first_slot, int count, float* to) {
  static_assert(kSlots == 1 || kSlots == 2);  // in a lane
  constexpr int kAhead = 2;                   // blocks whose codes are asked for together
  constexpr int kScaleBytes = Codes::kPowers ? 1 : 4;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const uint8_t *codes[2], *scales[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    codes[h] = stage + (g + 8 * h) * (work.cols / 2);
    scales[h] = stage + work.code_bytes + (g + 8 * h) * (work.groups * kScaleBytes);
  }
  TileTotals<Codes, kSlots> totals(x, first_slot, count);
  const auto fetch = [&](int block, uint32_t(&words)[2][4], uint32_t(&of_groups)[2][4]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (Codes::kPowers) {
        const int group = min(block * 4 + c, work.groups - 1);
        const uint4 v = *reinterpret_cast<const uint4*>(codes[h] + group * 16);
        of_groups[h][0] = scales[h][group];
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
  // Past the end of k x is 0, and codes are another group's: no branch keeps one piece's products behind another's.
  const auto multiply = [&](int base, auto blocks) {
    constexpr int kBlocks = blocks();
    uint32_t words[kBlocks][2][4], of_groups[kBlocks][2][4];
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) fetch(base + i, words[i], of_groups[i]);
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      const int block = base + i;
      if constexpr (Codes::kPowers) {
        const uint32_t exponents[2] = {of_groups[i][0][0], of_groups[i][1][0]};
        totals.Add(words[i][0], words[i][1], exponents, block);
      } else {
#pragma unroll
        for (int piece = 0; piece < Codes::kPieces; ++piece) {
          const int word = piece * Codes::kWords;
          const uint32_t pairs[2] = {of_groups[i][0][piece], of_groups[i][1][piece]};
          totals.Add(words[i][0] + word, words[i][1] + word, pairs, block, piece);
        }
      }
    }
  };
  int base = share.first;
#pragma unroll 1
  for (; base + kAhead <= share.end; base += kAhead) multiply(base, std::integral_constant<int, kAhead>());
#pragma unroll 1
  for (; base < share.end; ++base) multiply(base, std::integral_constant<int, 1>());
  float sums[4];
  totals.Store(sums);
  if constexpr (kSlots == 1) {
    if (c == 0) to[g] = sums[0], to[g + 8] = sums[2];
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[totals.SlotOf(c, i) * kTileOutputs + g + i / 2 * 8] = sums[i];
  }
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

// Of so many teams as there are warps for, those that can go round so many stages.
inline int TeamsFor(int teams, int stages) {
  while (teams > 2 * std::gcd(teams, stages)) teams /= 2;
  return teams;
}

// A team's wait for a tile, the round-th of its stage. Who had the stage before is done first: `full` could otherwise
// still be in that tile's phase, which says that the one before it has ended. And all warps of the team are done with
// what they had: `done` could otherwise still be in the phase before that.
__device__ __forceinline__ void WaitForTile(uint32_t full, uint32_t done, const GroupWork& work, int team, int stage,
                                            int round) {
  constexpr int kFirst = 2;  // of the barriers by number
  if (work.parts > 1) {
    NamedSync(kFirst + team, 32 * work.parts);
  } else {
    __syncwarp();
  }
  if (round > 0) BarrierWait(done + 8 * stage, round - 1 & 1);
  BarrierWait(full + 8 * stage, round & 1);
}

// The sum of what a team's warps left, `stride` apart, as AddSums adds it.
__device__ __forceinline__ float AddParts(const float* sums, int parts, int stride) {
  float sum = sums[0];
  for (int part = 1; part < parts; ++part) sum += sums[part * stride];
  return sum;
}

}  // namespace duo::cuda
