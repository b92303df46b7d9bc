// few_rows.cuh's products for MXFP4 on Hopper: the copy engine brings whole tiles of codes, which lie together in a
// bank, to shared memory several tiles ahead, and integer tensor cores multiply them as in linear_pieces.cuh: a lane's
// 16 bytes of codes lie in a group, x is given as columns of one group each, and every lane scales its own.
//
// x is 16-bit fixed point, each 32 of it by themselves. Their sums are whole numbers, exact in f32 too. How k is cut
// follows from k alone, so a slot has the same bits whatever is beside it.
// int4 codes in groups were faster in one row and 45 % slower in sixteen than in few_rows_tiles.cuh, so they go there.
#pragma once

#include "kernels/cuda/experts/few_rows_tiles.cuh"
#include "kernels/cuda/hopper/hopper_ptx.cuh"
#include "kernels/cuda/linear/code_tables.cuh"
#include "kernels/cuda/linear/linear_products.cuh"

namespace duo::cuda {

constexpr int kGroupStages = 4, kGroupSlots = 4;  // at most; slots of an expert at once
// Of a block: a warp besides for each stage, which refills it and finishes its outputs. By the warps that multiply this
// was on the way from each unit to the next.
constexpr int kGroupListStages = 3;  // at most, of lists
constexpr int GroupThreads(int stages) { return 32 * (kExpertWarps + stages); }
constexpr int kGroupDepth = 3;  // blocks of k of a warp, where there are enough warps

// How a kernel works: a unit is `tiles` tiles of an expert, of each of which `parts` warps share k; `stages` of them
// are on their way or multiplied at once. Bytes are of a unit.
struct GroupWork {
  int parts, tiles, units, stages, at_once;  // units: of one expert
  int cols, groups, blocks;                  // of k; blocks: of kTileColumns
  int outputs;                               // of an expert, of gate alone
  uint32_t code_bytes, param_bytes;
};

// Shared memory of a kernel: [stages][zeros][x][units][sums].
struct GroupMemory {
  static constexpr int kBlockBytes = 2 * kTileColumns;  // of x: [16-byte half][group of four][high, low] 16 bytes
  static constexpr int kZeros = kBlockBytes;            // what lanes without x read
  uint8_t* stages;
  uint8_t* zeros;
  uint8_t* x;    // [slot][block][kBlockBytes]
  float* units;  // [slot][blocks * 4] what 1 of a group's fixed point stands for
  float* sums;   // [2 * stages][warp][slot][16]

  __device__ GroupMemory(uint8_t* memory, const GroupWork& work) {
    stages = memory;
    zeros = memory + work.stages * (work.code_bytes + work.param_bytes);
    x = zeros + kZeros;
    units = reinterpret_cast<float*>(x + work.at_once * work.blocks * kBlockBytes);
    sums = units + work.at_once * work.blocks * 4;
  }
  // slots: of x that a warp multiplies at once.
  static size_t Bytes(const GroupWork& work, int slots) {
    const size_t stage = size_t{work.code_bytes} + work.param_bytes;
    return kZeros + stage * work.stages + size_t(work.at_once) * work.blocks * (kBlockBytes + 4 * sizeof(float)) +
           sizeof(float) * kTileOutputs * kExpertWarps * 2 * work.stages * slots;
  }
};

// x of `count` slots; row(s) is where slot s's begins. By a whole block.
template <typename Row>
__device__ __forceinline__ void StageGroups(const GroupMemory& to, const GroupWork& work, int count, const Row& row) {
  const int chunks = work.blocks * 16, all = chunks * count;
  if (threadIdx.x < GroupMemory::kZeros / 16) reinterpret_cast<uint4*>(to.zeros)[threadIdx.x] = uint4{};
  for (int i = threadIdx.x; i < all; i += blockDim.x) {  // whole groups of four lanes go round together
    const int slot = i / chunks, chunk = i - slot * chunks;
    uint4 v = {};
    if (chunk * 8 < work.cols) v = *reinterpret_cast<const uint4*>(row(slot) + chunk * 8);
    const uint32_t lanes = 0xfu << threadIdx.x % 32 / 4 * 4;
    constexpr uint32_t kMagnitude = 0x7fff7fffu;
    const uint32_t pair =
        __vmaxu2(__vmaxu2(v.x & kMagnitude, v.y & kMagnitude), __vmaxu2(v.z & kMagnitude, v.w & kMagnitude));
    uint32_t largest = max(pair & 0xffffu, pair >> 16);  // bits of |x|, which are ordered as their values
#pragma unroll
    for (int lane = 1; lane < 4; lane *= 2) largest = max(largest, __shfl_xor_sync(lanes, largest, lane));
    const float unit = FixedUnit(__uint_as_float(largest << 16));
    uint2 high, low;
    FixedEight<DType::kI8>(v, 1 / unit, high, low);
    const int block = chunk / 16, group = chunk % 16 / 4, step = chunk % 4;
    uint8_t* at =
        to.x + (slot * work.blocks + block) * GroupMemory::kBlockBytes + step / 2 * 128 + group * 32 + step % 2 * 8;
    *reinterpret_cast<uint2*>(at) = high;
    *reinterpret_cast<uint2*>(at + 16) = low;
    if (step == 0) to.units[slot * work.blocks * 4 + block * 4 + group] = unit;
  }
}

// A block's codes of two outputs as the tensor cores take them, as two sums (code_tables.cuh).
struct GroupNumbers {
  uint32_t a[4][2][4];  // [word]

  __device__ __forceinline__ GroupNumbers(const uint4& low, const uint4& high) {
    const uint32_t of_low[4] = {low.x, low.y, low.z, low.w}, of_high[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const NumberSums n0 = EightNumbers<CodeTable::kE2M1>(of_low[w]), n1 = EightNumbers<CodeTable::kE2M1>(of_high[w]);
      a[w][0][0] = n0.a[0], a[w][0][1] = n1.a[0], a[w][0][2] = n0.a[1], a[w][0][3] = n1.a[1];
      a[w][1][0] = n0.b[0], a[w][1][1] = n1.b[0], a[w][1][2] = n0.b[1], a[w][1][3] = n1.b[1];
    }
  }
  __device__ __forceinline__ void Multiply(int (&products)[4], int word, uint32_t b0, uint32_t b1) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) MmaS8(products, a[word][i][0], a[word][i][1], a[word][i][2], a[word][i][3], b0, b1);
  }
};

// A warp's sums of a tile of a stage and its share of k. first_slot: of x. rows: of the stage, of outputs g and g + 8.
// to: [slot][16]. kSlots: the most; there are `slots`.
template <int kSlots>
__device__ __forceinline__ void MultiplyGroups(const GroupMemory& memory, const GroupWork& work, const uint8_t* stage,
                                               const int (&rows)[2], const TileShare& share, int first_slot, int slots,
                                               float* to) {
  constexpr int kAhead = kSlots == 1 ? kGroupDepth : 1;  // blocks whose codes are asked for together
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const bool mine = g / 2 == c;  // column g of x is not zero where this lane's codes are
  const uint32_t row_bytes = work.cols / 2, last_group = work.groups - 1;
  const int x_stride = mine ? work.blocks * GroupMemory::kBlockBytes : 0, x_block = mine ? GroupMemory::kBlockBytes : 0;
  const uint32_t x =
      mine ? SharedAddress(memory.x) + first_slot * x_stride + c * 32 + g % 2 * 16 : SharedAddress(memory.zeros);
  const float* units = memory.units + first_slot * work.blocks * 4 + c;
  uint32_t codes[2];
  const uint8_t* params[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    codes[h] = SharedAddress(stage) + rows[h] * row_bytes + c * 16;
    params[h] = stage + work.code_bytes + rows[h] * work.groups;
  }
  float totals[kSlots][2] = {};
#pragma unroll 1
  for (int base = share.first; base < share.end; base += kAhead) {
    uint4 words[kAhead][2];
    float scale[kAhead][2];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int block = min(base + i, share.end - 1);
      const uint32_t group = min(block * 4u + c, last_group);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        words[i][h] = LoadShared16(codes[h] + block * 64);
        scale[i][h] = PowerOf(params[h][group]) * kTableUnit<CodeTable::kE2M1>;
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int block = base + i;
      if (block >= share.end) break;
      const GroupNumbers numbers(words[i][0], words[i][1]);
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (kSlots > 1 && s >= slots) break;
        const uint32_t at = x + s * x_stride + block * x_block;
        const uint4 x0 = LoadShared16(at), x1 = LoadShared16(at + 128);
        const float unit = units[(s * work.blocks + block) * 4];
        int products[4] = {};
        numbers.Multiply(products, 0, x0.x, x0.y);
        numbers.Multiply(products, 1, x0.z, x0.w);
        numbers.Multiply(products, 2, x1.x, x1.y);
        numbers.Multiply(products, 3, x1.z, x1.w);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float product = static_cast<float>(256 * products[2 * h] + products[2 * h + 1]) * unit;
          totals[s][h] = fmaf(scale[i][h], product, totals[s][h]);
        }
      }
    }
  }
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    if (kSlots > 1 && s >= slots) break;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      totals[s][h] += __shfl_xor_sync(0xffffffffu, totals[s][h], 1);
      totals[s][h] += __shfl_xor_sync(0xffffffffu, totals[s][h], 2);
    }
    if (c < 2) to[s * kTileOutputs + g + 8 * c] = c == 0 ? totals[s][0] : totals[s][1];
  }
}

// A unit's codes and scales -> a stage. By one thread. kUp: of the tiles' gate rows, then of their up rows.
template <bool kUp>
__device__ __forceinline__ void FetchGroups(const ExpertProduct& p, const GroupWork& work, int expert, int unit,
                                            uint32_t to, uint32_t full) {
  const int of_tile = kUp ? kTileOutputs / 2 : kTileOutputs, halves = kUp ? 2 : 1;
  const int first = unit * work.tiles * of_tile, most = work.tiles * of_tile, rows = min(most, work.outputs - first);
  const uint32_t code_row = work.cols / 2, param_row = work.groups;
  BarrierArriveExpect(full, halves * rows * (code_row + param_row));
#pragma unroll
  for (int h = 0; h < halves; ++h) {
    const int64_t row = (int64_t{expert} * halves + h) * work.outputs + first;
    CopyBytes(to + h * most * code_row, static_cast<const uint8_t*>(p.bank.data) + row * code_row, rows * code_row,
              full);
    CopyBytes(to + work.code_bytes + h * most * param_row, p.bank.exponents + row * param_row, rows * param_row, full);
  }
}

// The sum of a tile's parts for output lane % 16 of a slot, on both lanes that have it.
__device__ __forceinline__ float AddGroupParts(const float* sums, int parts, int stride, int slot) {
  const int lane = threadIdx.x % 32, half = lane / 16;
  const float* of = sums + slot * kTileOutputs + lane % 16;
  if (parts == 1) return of[0];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kExpertWarps / 2; ++i) {
    if (i < parts / 2) sum += of[(half * parts / 2 + i) * stride];
  }
  const float other = __shfl_xor_sync(0xffffffffu, sum, 16);
  return half == 0 ? sum + other : other + sum;
}

// Units of one row's experts. kUp: an expert after the other; otherwise a unit's experts after each other, so that a
// block has most of them.
template <bool kUp>
class RowUnits {
 public:
  __device__ RowUnits(const SlotLists& lists, const GroupWork& work) : units_(work.units), chosen_(lists.most) {
    const int lane = threadIdx.x % 32;
    expert_ = lists.PlaceOf(__ldcg(lists.of_one_row + min(lane, chosen_ - 1)));
    const int64_t all = int64_t{units_} * chosen_;
    begin = static_cast<int>(all * blockIdx.x / gridDim.x);
    end = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x);
  }
  __device__ int Slot(int at) const { return kUp ? at / units_ : at % chosen_; }
  __device__ int Unit(int at) const { return kUp ? at % units_ : at / chosen_; }
  __device__ int Expert(int at) const { return __shfl_sync(0xffffffffu, expert_, Slot(at)); }  // by whole warps

  int begin, end;

 private:
  int units_, chosen_, expert_;
};

// What both products of one row do. stage_x(): x to shared memory. bias(expert, unit, tile) of the lane's output, lane
// % 16; finish(slot, unit, tile, sum) by one warp, and ended(unit) behind a unit's.
template <bool kUp, typename StageX, typename Bias, typename Finish, typename Ended>
__device__ __forceinline__ void ForGroupsOfOneRow(const ExpertProduct& p, const GroupWork& work,
                                                  const GroupMemory& memory, const StageX& stage_x, const Bias& bias,
                                                  const Finish& finish, const Ended& ended) {
  __shared__ __align__(8) uint64_t barriers[2 * kGroupStages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  const uint32_t full = SharedAddress(barriers), done = full + 8 * kGroupStages;
  const RowUnits<kUp> units(p.lists, work);
  const uint32_t stages = SharedAddress(memory.stages), stage_bytes = work.code_bytes + work.param_bytes;
  const auto fetch = [&](int at, int stage) {  // by a whole warp
    const int expert = units.Expert(at);
    if (lane == 0) {
      FetchGroups<kUp>(p, work, expert, units.Unit(at), stages + stage * stage_bytes, full + 8 * stage);
    }
  };
  if (warp == kExpertWarps) {
    if (lane == 0) {
      for (int s = 0; s < work.stages; ++s) BarrierInit(full + 8 * s, 1), BarrierInit(done + 8 * s, kExpertWarps);
      BarrierInitFence();
    }
    __syncwarp();
    for (int s = 0; s < work.stages && units.begin + s < units.end; ++s) fetch(units.begin + s, s);
  }
  WaitForDependency();
  LetDependentsStart();
  stage_x();
  __syncthreads();
  const auto sums_of = [&](int stage, uint32_t parity) {
    return memory.sums + (parity * work.stages + stage) * (kExpertWarps * kTileOutputs);
  };
  uint32_t parity = 0;
  if (warp >= kExpertWarps) {
    const int stage = warp - kExpertWarps;
    for (int at = units.begin + stage; at < units.end; at += work.stages, parity ^= 1) {
      const int expert = units.Expert(at), unit = units.Unit(at);
      const float first_bias = bias(expert, unit, 0);
      BarrierWait(done + 8 * stage, parity);
      if (at + work.stages < units.end) fetch(at + work.stages, stage);
      const float* sums = sums_of(stage, parity);
      for (int t = 0; t < work.tiles; ++t) {
        const float of_output = t == 0 ? first_bias : bias(expert, unit, t);
        finish(units.Slot(at), unit, t,
               AddGroupParts(sums + t * work.parts * kTileOutputs, work.parts, kTileOutputs, 0) + of_output);
      }
      ended(unit);
    }
    return;
  }
  const TileShare share(work.cols, warp % work.parts, work.parts);
  const int tile = warp / work.parts;
  const int rows[2] = {kUp ? tile * 8 + g : tile * 16 + g, kUp ? (work.tiles + tile) * 8 + g : tile * 16 + 8 + g};
  int stage = 0;
  for (int at = units.begin; at < units.end; ++at) {
    BarrierWait(full + 8 * stage, parity);
    MultiplyGroups<1>(memory, work, memory.stages + stage * stage_bytes, rows, share, kUp ? 0 : units.Slot(at), 1,
                      sums_of(stage, parity) + warp * kTileOutputs);
    __syncwarp();
    if (lane == 0) BarrierArrive(done + 8 * stage);
    if (++stage == work.stages) stage = 0, parity ^= 1;
  }
}

// What products of gate and up have in common: biases, and the end of a tile's outputs of a slot. A lane's output is
// column lane % 8, of gate or of up.
struct GroupUpEnds {
  const float* bias;
  int n, tiles;
  __device__ __forceinline__ float Bias(int expert, int unit, int tile) const {
    if (bias == nullptr) return 0;
    const int lane = threadIdx.x % 32, column = min((unit * tiles + tile) * 8 + lane % 8, n - 1);
    return bias[(int64_t{expert} * 2 + lane % 16 / 8) * n + column];
  }
  __device__ __forceinline__ void Store(bf16* product, const Gating& gating, int id, int unit, int tile,
                                        float sum) const {
    const int lane = threadIdx.x % 32, column = (unit * tiles + tile) * 8 + lane;
    const float half = ToFloat(ToBf16(sum)), up = __shfl_down_sync(0xffffffffu, half, 8);
    if (lane < 8 && column < n) product[int64_t{id} * n + column] = ToBf16(gating.Of(half, up));
  }
};
// And those of down, y [slots][dim].
struct GroupDownEnds {
  const float* bias;
  int dim, tiles;
  __device__ __forceinline__ float Bias(int expert, int unit, int tile) const {
    if (bias == nullptr) return 0;
    const int column = min((unit * tiles + tile) * 16 + static_cast<int>(threadIdx.x % 16), dim - 1);
    return bias[int64_t{expert} * dim + column];
  }
  __device__ __forceinline__ void Store(float* y, int id, int unit, int tile, float sum) const {
    const int lane = threadIdx.x % 32, column = (unit * tiles + tile) * 16 + lane;
    if (lane < 16 && column < dim) y[int64_t{id} * dim + column] = sum;
  }
};

// GateUpKernel of one row; `counters` are zeroed for the next kernel.
__global__ void __launch_bounds__(GroupThreads(kGroupStages), 2)
    GroupGateUpOneRowKernel(bf16* product, ExpertProduct p, Gating gating, GroupWork work, int* counters,
                            int num_counters) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) uint8_t group_memory[];
  const GroupMemory memory(group_memory, work);
  WaitForDependency();  // for the lists; the kernel after the next may rely on them from its beginning
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < num_counters; i += gridDim.x * blockDim.x) counters[i] = 0;
  const GroupUpEnds ends = {p.bank.bias, work.outputs, work.tiles};
  ForGroupsOfOneRow<true>(
      p, work, memory, [&] { StageGroups(memory, work, 1, [&](int) { return p.x; }); },
      [&](int expert, int unit, int tile) { return ends.Bias(expert, unit, tile); },
      [&](int slot, int unit, int tile, float sum) { ends.Store(product, gating, slot, unit, tile, sum); }, [](int) {});
#endif
}

// Of one row: out [dim] = sum over its experts of weight * down. y [slots][dim] f32: who finishes the last expert of a
// unit adds them up, which counters [units] tell.
__global__ void __launch_bounds__(GroupThreads(kGroupStages), 2)
    GroupDownOneRowKernel(bf16* out, float* y, ExpertProduct p, Routing routing, GroupWork work, int* counters) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) uint8_t group_memory[];
  const GroupMemory memory(group_memory, work);
  const int lane = threadIdx.x % 32, dim = work.outputs;
  const GroupDownEnds ends = {p.bank.bias, dim, work.tiles};
  const auto ended = [&](int unit) {
    __syncwarp();
    int before = 0;
    if (lane == 0) {
      __threadfence();
      before = atomicAdd(counters + unit, 1);
      __threadfence();
    }
    if (__shfl_sync(0xffffffffu, before, 0) != routing.chosen - 1) return;
    for (int i = lane; i < work.tiles * kTileOutputs; i += 32) {
      const int column = unit * work.tiles * kTileOutputs + i;
      if (column >= dim) break;
      float all = 0;
#pragma unroll 4
      for (int j = 0; j < routing.chosen; ++j) {
        all = fmaf(__ldcg(routing.weights + j), __ldcg(y + int64_t{j} * dim + column), all);
      }
      out[column] = ToBf16(all);
    }
  };
  ForGroupsOfOneRow<false>(
      p, work, memory, [&] { StageGroups(memory, work, routing.chosen, [&](int s) { return p.x + s * p.x_stride; }); },
      [&](int expert, int unit, int tile) { return ends.Bias(expert, unit, tile); },
      [&](int slot, int unit, int tile, float sum) { ends.Store(y, slot, unit, tile, sum); }, ended);
#endif
}

// What both products of lists of slots do: as few_rows_tiles.cuh's ForTiles. finish(expert, unit, tile, slot's id,
// sum).
template <bool kUp, typename Bias, typename Finish>
__device__ __forceinline__ void ForGroupLists(const ExpertProduct& p, const GroupWork& work, const GroupMemory& memory,
                                              const Bias& bias, const Finish& finish) {
  constexpr int kOfWarp = kGroupSlots * kTileOutputs;
  __shared__ __align__(8) uint64_t barriers[2 * kGroupStages];
  __shared__ int ids[kGroupSlots];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  const uint32_t full = SharedAddress(barriers), done = full + 8 * kGroupStages;
  const uint32_t stages = SharedAddress(memory.stages), stage_bytes = work.code_bytes + work.param_bytes;
  const TileWork dealt = {work.parts, work.at_once, work.units};
  UnitWalk walk(p.lists, dealt);
  if (walk.done) return;
  if (threadIdx.x == 32 * kExpertWarps) {
    for (int s = 0; s < work.stages; ++s) BarrierInit(full + 8 * s, 1), BarrierInit(done + 8 * s, kExpertWarps);
    BarrierInitFence();
  }
  UnitWalk ahead = walk;  // of the warps that refill: the next unit to be fetched
  const bool refills = warp >= kExpertWarps;
  const auto fetch = [&](int stage) {
    FetchGroups<kUp>(p, work, ahead.of.expert, ahead.unit, stages + stage * stage_bytes, full + 8 * stage);
  };
  for (int s = 0; refills && s < work.stages && !ahead.done; ++s) {
    if (threadIdx.x == 32 * kExpertWarps) fetch(s);
    ahead.Next(p.lists, dealt);
  }
  WaitForDependency();
  LetDependentsStart();
  const TileShare share(work.cols, warp % work.parts, work.parts);
  const int tile = warp / work.parts;
  const int rows[2] = {kUp ? tile * 8 + g : tile * 16 + g, kUp ? (work.tiles + tile) * 8 + g : tile * 16 + 8 + g};
  int stage = 0;
  uint32_t parity = 0;
  while (!walk.done) {
    const int count = min(work.at_once, walk.of.end - walk.first_slot);
    if (walk.new_slots) {
      const auto slot_at = [&](int s) {
        return walk.first_slot + s == walk.of.begin ? walk.of.first_slot : p.lists.slots[walk.first_slot + s];
      };
      __syncthreads();  // everybody is done with x
      if (threadIdx.x < count) ids[threadIdx.x] = slot_at(threadIdx.x);
      StageGroups(memory, work, count, [&](int s) { return p.x + slot_at(s) / p.slots_a_row * p.x_stride; });
      __syncthreads();
    }
    float* sums = memory.sums + (parity * work.stages + stage) * (kExpertWarps * kOfWarp);
    if (!refills) {
      BarrierWait(full + 8 * stage, parity);
      MultiplyGroups<kGroupSlots>(memory, work, memory.stages + stage * stage_bytes, rows, share, 0, count,
                                  sums + warp * kOfWarp);
      __syncwarp();
      if (lane == 0) BarrierArrive(done + 8 * stage);
    } else if (warp == kExpertWarps + stage) {
      const float first_bias = bias(walk.of.expert, walk.unit, 0);
      BarrierWait(done + 8 * stage, parity);
      if (!ahead.done && lane == 0) fetch(stage);
      for (int t = 0; t < work.tiles; ++t) {
        const float of_output = t == 0 ? first_bias : bias(walk.of.expert, walk.unit, t);
        for (int s = 0; s < count; ++s) {
          finish(ids[s], walk.unit, t,
                 AddGroupParts(sums + t * work.parts * kOfWarp, work.parts, kOfWarp, s) + of_output);
        }
      }
      __syncwarp();
    }
    if (refills && !ahead.done) ahead.Next(p.lists, dealt);
    walk.Next(p.lists, dealt);
    if (++stage == work.stages) stage = 0, parity ^= 1;
  }
}

// GateUpKernel.
__global__ void __launch_bounds__(GroupThreads(kGroupListStages), 2)
    GroupGateUpKernel(bf16* product, ExpertProduct p, Gating gating, GroupWork work) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) uint8_t group_memory[];
  const GroupMemory memory(group_memory, work);
  WaitForDependency();  // for the lists; the kernel after the next may rely on them from its beginning
  const GroupUpEnds ends = {p.bank.bias, work.outputs, work.tiles};
  ForGroupLists<true>(
      p, work, memory, [&](int expert, int unit, int tile) { return ends.Bias(expert, unit, tile); },
      [&](int id, int unit, int tile, float sum) { ends.Store(product, gating, id, unit, tile, sum); });
#endif
}

// DownKernel. early: the lists may be read before the kernel ahead has ended.
__global__ void __launch_bounds__(GroupThreads(kGroupListStages), 2)
    GroupDownKernel(float* y, ExpertProduct p, GroupWork work, bool early) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) uint8_t group_memory[];
  const GroupMemory memory(group_memory, work);
  if (!early) WaitForDependency();
  const GroupDownEnds ends = {p.bank.bias, work.outputs, work.tiles};
  ForGroupLists<false>(
      p, work, memory, [&](int expert, int unit, int tile) { return ends.Bias(expert, unit, tile); },
      [&](int id, int unit, int tile, float sum) { ends.Store(y, id, unit, tile, sum); });
#endif
}

}  // namespace duo::cuda
