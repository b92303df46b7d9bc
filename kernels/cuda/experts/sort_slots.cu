// A sort by counting: blocks count their slots of each expert, one block adds up the counts, and each block puts its
// slots where they belong.
#include <algorithm>

#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/experts/sort_slots.h"
#include "kernels/cuda/experts/sum_before.cuh"

namespace duo::cuda {
namespace {

constexpr int kBlockSlots = 512;
constexpr int32_t kPastEnd = INT32_MIN;  // what no thread looks for

// what(slot) for each of the block's slots that chose the run's expert threadIdx.x, ascending.
template <typename What>
__device__ __forceinline__ void EachOwn(const int32_t* chosen, int64_t slots, ExpertRun run, const What& what) {
  __shared__ alignas(16) int32_t own[kBlockSlots];
  const int64_t first = int64_t{blockIdx.x} * kBlockSlots;
  for (int i = threadIdx.x; i < kBlockSlots; i += blockDim.x) {
    own[i] = first + i < slots ? chosen[first + i] : kPastEnd;
  }
  __syncthreads();
  const int wanted = threadIdx.x < run.count ? run.first + static_cast<int>(threadIdx.x) : -1;
#pragma unroll 4
  for (int i = 0; i < kBlockSlots; i += 4) {
    const int4 four = *reinterpret_cast<const int4*>(own + i);
    const int at = static_cast<int>(first) + i;
    if (four.x == wanted) what(at);
    if (four.y == wanted) what(at + 1);
    if (four.z == wanted) what(at + 2);
    if (four.w == wanted) what(at + 3);
  }
}

// counts [blocks][experts]
__global__ void __launch_bounds__(kMostExperts)
    CountSlotsKernel(int32_t* counts, const int32_t* chosen, int64_t slots, ExpertRun run) {
  StartOverlapped();
  int count = 0;
  EachOwn(chosen, slots, run, [&](int) { ++count; });
  if (threadIdx.x < run.count) counts[int64_t{blockIdx.x} * run.count + threadIdx.x] = count;
}

// One block, a thread an expert: counts become those of the blocks before, begins [experts] the experts' first places.
__global__ void __launch_bounds__(kMostExperts)
    CutTilesKernel(SortedSlots sorted, int32_t* counts, int32_t* begins, int blocks, int experts) {
  StartOverlapped();
  __shared__ int of_warps[2][32];
  const int expert = threadIdx.x;
  const bool real = expert < experts;
  int count = 0;
  constexpr int kAtOnce = 16;  // loads under way
  for (int first = 0; real && first < blocks; first += kAtOnce) {
    int32_t here[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      here[i] = first + i < blocks ? counts[int64_t{first + i} * experts + expert] : 0;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < blocks) counts[int64_t{first + i} * experts + expert] = count;
      count += here[i];
    }
  }
  int all_places, all_tiles;
  const int place = SumBefore(RoundUp(count, kSortedPadded), of_warps[0], &all_places);
  const int tile = SumBefore(CeilDiv(count, kSortedRows), of_warps[1], &all_tiles);
  if (threadIdx.x == 0) *sorted.count = all_tiles;
  if (!real) return;
  begins[expert] = place;
  for (int i = 0; i * kSortedRows < count; ++i) {
    sorted.tiles[tile + i] = {expert, place + i * kSortedRows, min(kSortedRows, count - i * kSortedRows)};
  }
}

__global__ void __launch_bounds__(kMostExperts)
    PlaceSlotsKernel(SortedSlots sorted, const int32_t* before, const int32_t* begins, const int32_t* chosen,
                     int64_t slots, ExpertRun run) {
  StartOverlapped();
  int place = 0;
  if (threadIdx.x < run.count) {
    place = begins[threadIdx.x] + before[int64_t{blockIdx.x} * run.count + threadIdx.x];
  }
  EachOwn(chosen, slots, run, [&](int slot) {
    sorted.slots[place] = slot;
    sorted.places[slot] = place++;
  });
}

}  // namespace

int64_t MostTiles(int64_t slots, int experts) {
  return CeilDiv(slots, int64_t{kSortedRows}) + std::min<int64_t>(experts, slots);
}
int64_t MostPlaces(int64_t slots, int experts) {
  return RoundUp(slots, int64_t{kSortedPadded}) + std::min<int64_t>(experts, slots) * kSortedPadded;
}

size_t SortSlotsScratchBytes(int64_t slots, int experts) {
  return Arena::Rounded(sizeof(SortedTile) * MostTiles(slots, experts)) +
         Arena::Rounded(sizeof(int32_t) * MostPlaces(slots, experts)) + Arena::Rounded(sizeof(int32_t) * (slots + 1)) +
         Arena::Rounded(sizeof(int32_t) * (CeilDiv(slots, int64_t{kBlockSlots}) + 1) * experts);
}

SortedSlots SortSlots(Device& device, const Routing& routing, int64_t rows, ExpertRun run, Arena& scratch) {
  const int experts = run.count;
  const int64_t slots = rows * routing.chosen;
  const int blocks = static_cast<int>(CeilDiv(slots, int64_t{kBlockSlots}));
  SortedSlots sorted = {};
  sorted.tiles = static_cast<SortedTile*>(scratch.Take(sizeof(SortedTile) * MostTiles(slots, experts)));
  sorted.slots = static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * MostPlaces(slots, experts)));
  sorted.places = static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * (slots + 1)));
  sorted.count = sorted.places + slots;
  auto* counts = static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * (blocks + 1) * experts));
  int32_t* begins = counts + int64_t{blocks} * experts;
  const dim3 grid(blocks), threads(RoundUp(experts, 32));
  LaunchOverlapped(device, CountSlotsKernel, grid, threads, 0, counts, routing.experts, slots, run);
  LaunchOverlapped(device, CutTilesKernel, dim3(1), threads, 0, sorted, counts, begins, blocks, experts);
  LaunchOverlapped(device, PlaceSlotsKernel, grid, threads, 0, sorted, counts, begins, routing.experts, slots, run);
  return sorted;
}

}  // namespace duo::cuda
