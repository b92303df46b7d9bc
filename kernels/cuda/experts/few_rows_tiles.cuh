// few_rows.cuh's products for int4 codes in groups of one level and MXFP4, by code_tiles.cuh: any number of slots up to
// 8 of an expert reads its codes once and takes as long as one. How k is cut among warps follows from k alone, so that
// a slot has the same bits whatever rows are beside it.
#pragma once

#include "kernels/cuda/experts/code_tiles.cuh"
#include "kernels/cuda/experts/few_rows.cuh"

namespace duo::cuda {

constexpr int kUpDepth = 4, kDownDepth = 6;  // blocks of k that a warp has under way
// Blocks of gate and up on a multiprocessor: three leave no room to look ahead, which one row does not.
constexpr int UpBlocks(bool one_row, bool one_piece) { return one_row && one_piece ? 3 : 2; }
// Of x: two blocks fit a multiprocessor, and one with its sums the 99 KB of sm_86 and sm_89.
constexpr size_t kTileShared = size_t{88} << 10;

// Warps that share a tile's k: so many that each can have all of its blocks under way, up to all of a block's.
inline int TileParts(int64_t cols) {
  int parts = 1;
  while (parts < kExpertWarps && CeilDiv(CeilDiv(cols, kTileColumns), parts) > kDownDepth) parts *= 2;
  return parts;
}

// Where a warp leaves a tile's sums: [slot][output].
using TileSums = float[kTileSlots][kTileOutputs];
template <typename Codes>
__device__ __forceinline__ void LeaveSums(TileSums& sums, const float (&totals)[4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[TileTotals<Codes, 2>::SlotOf(c, i)][g + i / 2 * 8] = totals[i];
}
__device__ __forceinline__ float AddSums(const TileSums* of_parts, int parts, int slot, int output) {
  float sum = of_parts[0][slot][output];
  for (int part = 1; part < parts; ++part) sum += of_parts[part][slot][output];
  return sum;
}

// How a kernel for lists of slots works: units of kExpertWarps / parts tiles of one expert, dealt to the blocks in
// equal runs, so that a block fetches one unit's codes while it multiplies another's; at_once slots of an expert at a
// time, as shared memory holds them.
struct TileWork {
  int parts, at_once, units;  // units: of one expert
};

// The units of a block in order: of its units of one expert all, for the first slots, then for the next.
class UnitWalk {
 public:
  int unit = 0;        // of the expert
  int first_slot = 0;  // place in the lists
  ChosenExpert of = {-1, 0, 0, 0};
  bool new_slots = false;  // others than the unit before had
  bool done = false;

  __device__ UnitWalk(const SlotLists& lists, const TileWork& work) {
    const int units = (lists.of_one_row != nullptr ? lists.most : __ldcg(lists.count)) * work.units;
    at_ = static_cast<int>(int64_t{units} * blockIdx.x / gridDim.x);
    end_ = static_cast<int>(int64_t{units} * (blockIdx.x + 1) / gridDim.x);
    done = at_ == end_;
    if (!done) Enter(lists, work);
  }
  __device__ void Next(const SlotLists& lists, const TileWork& work) {
    new_slots = false;
    ++unit;
    if (++at_ < end_of_expert_) return;
    first_slot += work.at_once;
    if (first_slot < of.end) {
      unit -= at_ - begin_;
      at_ = begin_;
      new_slots = true;
    } else if (at_ < end_) {
      Enter(lists, work);
    } else {
      done = true;
    }
  }

 private:
  __device__ void Enter(const SlotLists& lists, const TileWork& work) {
    const int expert = at_ / work.units;
    of = ChosenAt(lists, expert);
    unit = at_ - expert * work.units;
    begin_ = at_;
    end_of_expert_ = min(end_, (expert + 1) * work.units);
    first_slot = of.begin;
    new_slots = true;
  }

  int at_, end_, begin_ = 0, end_of_expert_ = 0;  // units of all experts
};

// What those kernels have in common. row(expert, tile, output): of the bank. finish(expert, tile, output, slot's id,
// slot, sums of the tile's parts): by one thread an output of it, of `outputs`.
template <typename Codes, int kDepth, typename Row, typename Finish>
__device__ __forceinline__ void ForTiles(const ExpertProduct& p, const TileWork& work, int outputs, const Row& row,
                                         const Finish& finish) {
  extern __shared__ uint4 shared_x[];
  __shared__ TileSums sums[2][kExpertWarps];
  __shared__ int ids[2][kTileSlots];
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, tiles = kExpertWarps / work.parts;
  UnitWalk walk(p.lists, work);
  if (walk.done) return;
  const SharedSlots x(shared_x, p.bank.cols, Codes::kGroup, work.at_once);
  CodeTile<Codes, kDepth> codes(p.bank, TileShare(p.bank.cols, warp % work.parts, work.parts));
  auto place_of = [&](const UnitWalk& at) {
    const int64_t tile = int64_t{at.unit} * tiles + warp / work.parts;
    const int64_t rows[2] = {row(at.of.expert, tile, g), row(at.of.expert, tile, g + 8)};
    return codes.PlaceOf(p.bank, rows);
  };
  TilePlace place = place_of(walk);
  codes.Start(place);
  WaitForDependency();
  LetDependentsStart();
  int parity = 0, slots_parity = 0;
  while (!walk.done) {
    const int count = min(work.at_once, walk.of.end - walk.first_slot);
    if (walk.new_slots) {
      slots_parity ^= 1;
      auto slot_at = [&](int s) {
        return walk.first_slot + s == walk.of.begin ? walk.of.first_slot : p.lists.slots[walk.first_slot + s];
      };
      if (threadIdx.x < count) ids[slots_parity][threadIdx.x] = slot_at(threadIdx.x);
      StageSlots<Codes>(x, p.bank.cols, count, [&](int s) { return p.x + slot_at(s) / p.slots_a_row * p.x_stride; });
      __syncthreads();
    }
    UnitWalk next = walk;
    next.Next(p.lists, work);
    const TilePlace next_place = next.done ? place : place_of(next);
    float totals[4];
    codes.Multiply(place, next_place, !next.done, x, 0, count, totals);
    LeaveSums<Codes>(sums[parity][warp], totals);
    __syncthreads();  // everybody is also done with x
    for (int i = threadIdx.x; i < tiles * count * outputs; i += blockDim.x) {
      const int output = i % outputs, slot = i / outputs % count, t = i / outputs / count;
      finish(walk.of.expert, int64_t{walk.unit} * tiles + t, output, ids[slots_parity][slot], slot,
             sums[parity] + t * work.parts);
    }
    parity ^= 1;
    walk = next;
    place = next_place;
  }
}

// The same of one row: a unit a block, of one slot. begin(expert, tile, output): before the codes are waited for.
template <typename Codes, int kDepth, typename Row, typename Begin, typename Finish>
__device__ __forceinline__ void ForTilesOfOneRow(const ExpertProduct& p, const TileWork& work, int outputs,
                                                 const Row& row, const Begin& begin, const Finish& finish) {
  extern __shared__ uint4 shared_x[];
  __shared__ TileSums sums[kExpertWarps];
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, tiles = kExpertWarps / work.parts;
  const int slot = blockIdx.x / work.units, unit = blockIdx.x - slot * work.units;
  const int expert = p.lists.PlaceOf(__ldcg(p.lists.of_one_row + slot));
  if (expert < 0) return;
  const SharedSlots x(shared_x, p.bank.cols, Codes::kGroup, 1);
  CodeTile<Codes, kDepth> codes(p.bank, TileShare(p.bank.cols, warp % work.parts, work.parts));
  const int64_t tile = int64_t{unit} * tiles + warp / work.parts;
  const int64_t rows[2] = {row(expert, tile, g), row(expert, tile, g + 8)};
  const TilePlace place = codes.PlaceOf(p.bank, rows);
  codes.Start(place);
  WaitForDependency();
  LetDependentsStart();
  StageSlots<Codes>(x, p.bank.cols, 1, [&](int) { return p.x + slot / p.slots_a_row * p.x_stride; });
  __syncthreads();
  static_assert(kExpertWarps * kTileOutputs <= 32 * kExpertWarps);  // a thread has one output at most
  const int i = threadIdx.x;
  const int64_t finished = int64_t{unit} * tiles + i / outputs;
  if (i < tiles * outputs) begin(expert, finished, i % outputs);
  float totals[4];
  codes.Multiply(place, place, false, x, 0, 1, totals);
  LeaveSums<Codes>(sums[warp], totals);
  __syncthreads();
  if (i < tiles * outputs) finish(expert, finished, i % outputs, slot, 0, sums + i / outputs * work.parts);
}

// GateUpKernel. A tile has eight columns of gate and the same of up.
template <typename Codes, bool kOneRow>
__global__ void __launch_bounds__(32 * kExpertWarps, UpBlocks(kOneRow, Codes::kPieces == 1 && !Codes::kPowers))
    TileGateUpKernel(bf16* product, ExpertProduct p, Gating gating, TileWork work) {
  WaitForDependency();  // for the lists; the kernel after the next may rely on them from its beginning
  const int64_t n = p.bank.rows / p.experts / 2;
  auto row = [&](int expert, int64_t tile, int output) {
    return expert * 2 * n + min(tile * 8 + output % 8, n - 1) + (output < 8 ? 0 : n);
  };
  float biases[2] = {};  // of one row
  const auto begin = [&](int expert, int64_t tile, int output) {
    if (p.bank.bias == nullptr) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) biases[h] = p.bank.bias[(expert * 2 + h) * n + min(tile * 8 + output, n - 1)];
  };
  const auto finish = [&](int expert, int64_t tile, int output, int id, int slot, const TileSums* sums) {
    const int64_t column = tile * 8 + output;
    if (column >= n) return;
    float half[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      half[h] = AddSums(sums, work.parts, slot, output + 8 * h);
      if constexpr (kOneRow) {
        half[h] += biases[h];
      } else if (p.bank.bias != nullptr) {
        half[h] += p.bank.bias[(expert * 2 + h) * n + column];
      }
      half[h] = ToFloat(ToBf16(half[h]));
    }
    product[id * n + column] = ToBf16(gating.Of(half[0], half[1]));
  };
  if constexpr (kOneRow) {
    ForTilesOfOneRow<Codes, kUpDepth>(p, work, 8, row, begin, finish);
  } else {
    ForTiles<Codes, kUpDepth>(p, work, 8, row, finish);
  }
}

// DownKernel. early: the lists may be read before the kernel ahead has ended.
template <typename Codes>
__global__ void __launch_bounds__(32 * kExpertWarps, 2)
    TileDownKernel(float* y, ExpertProduct p, TileWork work, bool early) {
  if (!early) WaitForDependency();
  const int64_t dim = p.bank.rows / p.experts;
  auto row = [&](int expert, int64_t tile, int output) {
    return expert * dim + min(tile * kTileOutputs + output, dim - 1);
  };
  const auto finish = [&](int expert, int64_t tile, int output, int id, int slot, const TileSums* sums) {
    const int64_t column = tile * kTileOutputs + output;
    if (column >= dim) return;
    float sum = AddSums(sums, work.parts, slot, output);
    if (p.bank.bias != nullptr) sum += p.bank.bias[expert * dim + column];
    y[id * dim + column] = sum;
  };
  ForTiles<Codes, kDownDepth>(p, work, kTileOutputs, row, finish);
}

// Which of one row's experts are here. Where all are (kPartial false) its slots are counted as they are.
template <bool kPartial>
class SlotsHere {
 public:
  // By whole warps.
  __device__ __forceinline__ SlotsHere(const SlotLists& lists, int chosen) : lists_(lists), count_(chosen) {
    if constexpr (kPartial) {
      static_assert(kMostChosenExperts <= 64);
      const int lane = threadIdx.x % 32;
      uint32_t half[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int slot = lane + 32 * h;
        const bool here = slot < chosen && lists.PlaceOf(__ldcg(lists.of_one_row + min(slot, chosen - 1))) >= 0;
        half[h] = __ballot_sync(0xffffffffu, here);
      }
      mask_ = half[0] | static_cast<uint64_t>(half[1]) << 32;
      count_ = __popcll(mask_);
    }
  }
  __device__ __forceinline__ int count() const { return count_; }
  // The i-th slot.
  __device__ __forceinline__ int operator[](int i) const {
    if constexpr (!kPartial) return i;
    uint64_t left = mask_;
    for (; i > 0; --i) left &= left - 1;
    return __ffsll(static_cast<long long>(left)) - 1;
  }
  __device__ __forceinline__ int64_t Expert(int i) const {
    return lists_.PlaceOf(__ldcg(lists_.of_one_row + (*this)[i]));
  }

 private:
  const SlotLists& lists_;
  int count_;
  uint64_t mask_ = 0;
};

// The end of one row's down: a block's threads add up the parts of the outputs of each expert, then 16 of them the
// experts. Biases and weights are asked for ahead of the products: one after another behind them they took 2 of 13 us.
class DownEnds {
 public:
  template <typename Slots>
  __device__ __forceinline__ DownEnds(const float* bias, const Slots& slots, const Routing& routing,
                                      int64_t first_output, int64_t dim) {
    static_assert(kTileOutputs * kMostChosenExperts <= kEach * 32 * kExpertWarps);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int slot = Slot(i);
      const int64_t column = min(first_output + threadIdx.x % kTileOutputs, dim - 1);
      biases_[i] = 0;
      if (bias != nullptr && slot < slots.count()) biases_[i] = bias[slots.Expert(slot) * dim + column];
    }
    const int slot = static_cast<int>(threadIdx.x);
    weight_ = slot < 32 && slot < slots.count() ? routing.weights[slots[slot]] : 0.0f;
  }
  // sums: [slot][part][output]; those of part 0 become the slot's.
  __device__ __forceinline__ void Add(float* sums, int parts, int chosen) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (Slot(i) >= chosen) break;
      float* of_slot = sums + Slot(i) * parts * kTileOutputs + threadIdx.x % kTileOutputs;
      float sum = of_slot[0];
      for (int part = 1; part < parts; ++part) sum += of_slot[part * kTileOutputs];
      of_slot[0] = sum + biases_[i];
    }
  }
  template <typename Slots>
  __device__ __forceinline__ void Store(bf16* out, const float* sums, int parts, const Slots& slots,
                                        const Routing& routing, int64_t first_output, int64_t dim) const {
    if (threadIdx.x >= 32) return;
    const int output = threadIdx.x % kTileOutputs;
    float all = 0;
    for (int j = 0; j < slots.count(); ++j) {
      const float weight = j < 32 ? __shfl_sync(0xffffffffu, weight_, j) : routing.weights[slots[j]];
      all = fmaf(weight, sums[j * parts * kTileOutputs + output], all);
    }
    if (threadIdx.x < kTileOutputs && first_output + output < dim) out[first_output + output] = ToBf16(all);
  }

 private:
  static constexpr int kEach = 4;
  static __device__ __forceinline__ int Slot(int i) { return (threadIdx.x + i * 32 * kExpertWarps) / kTileOutputs; }

  float biases_[kEach];
  float weight_;  // of the first warp's lanes: their slot's
};

// Of one row: out [dim] = sum over its experts of weight * down, a block for 16 outputs, a job of a warp for an expert
// and a part of k. Shared memory: x of all slots, then [job][output] sums.
template <typename Codes, bool kPartial>
__global__ void __launch_bounds__(32 * kExpertWarps, 2)
    TileDownOneRowKernel(bf16* out, ExpertProduct p, Routing routing, int parts, bool early) {
  extern __shared__ uint4 shared_x[];
  const int64_t dim = p.bank.rows / p.experts, first_output = int64_t{blockIdx.x} * kTileOutputs;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  const SharedSlots x(shared_x, p.bank.cols, Codes::kGroup, routing.chosen);
  float* sums = x.End(routing.chosen);
  // kExpertWarps is a multiple of the parts: all jobs of a warp have the same.
  CodeTile<Codes, kDownDepth> codes(p.bank, TileShare(p.bank.cols, warp % parts, parts));
  if (!early) WaitForDependency();
  const SlotsHere<kPartial> slots(p.lists, routing.chosen);
  const int jobs = slots.count() * parts;
  auto place_of = [&](int job) {
    const int64_t first_row = slots.Expert(job / parts) * dim;
    const int64_t rows[2] = {first_row + min(first_output + g, dim - 1),
                             first_row + min(first_output + g + 8, dim - 1)};
    return codes.PlaceOf(p.bank, rows);
  };
  TilePlace place = {};
  if (warp < jobs) {
    place = place_of(warp);
    codes.Start(place);
  }
  WaitForDependency();
  LetDependentsStart();
  const DownEnds ends(p.bank.bias, slots, routing, first_output, dim);
  StageSlots<Codes>(x, p.bank.cols, slots.count(), [&](int s) { return p.x + slots[s] * p.x_stride; });
  __syncthreads();
  for (int job = warp; job < jobs; job += kExpertWarps) {
    const bool more = job + kExpertWarps < jobs;
    const TilePlace next = more ? place_of(job + kExpertWarps) : place;
    float totals[4];
    codes.Multiply(place, next, more, x, job / parts, 1, totals);
    place = next;
    if (lane % 4 == 0) {
      sums[job * kTileOutputs + g] = totals[0];
      sums[job * kTileOutputs + g + 8] = totals[2];
    }
  }
  __syncthreads();
  ends.Add(sums, parts, slots.count());
  __syncthreads();
  ends.Store(out, sums, parts, slots, routing, first_output, dim);
}

}  // namespace duo::cuda
