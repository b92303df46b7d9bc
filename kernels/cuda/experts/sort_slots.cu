// A sort by counting: blocks count their slots of each expert, one block adds up the counts, and each block puts its
// slots where they belong.
#include <algorithm>

#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/experts/sort_slots.h"
#include "kernels/cuda/experts/sum_before.cuh"

namespace duo::cuda {
namespace {

constexpr int kBlockSlots = 2048;

// what(slot) for each of the block's slots that chose the run's expert threadIdx.x, ascending.
template <typename What>
__device__ __forceinline__ void EachOwn(const int32_t* chosen, int64_t slots, ExpertRun run, const What& what) {
  __shared__ int32_t own[kBlockSlots];
  const int64_t first = int64_t{blockIdx.x} * kBlockSlots;
  const int wanted = threadIdx.x < run.count ? run.first + static_cast<int>(threadIdx.x) : -1;
  const int here = static_cast<int>(min(int64_t{kBlockSlots}, slots - first));
  for (int i = threadIdx.x; i < here; i += blockDim.x) own[i] = chosen[first + i];
  __syncthreads();
#pragma unroll 8
  for (int i = 0; i < here; ++i) {
    if (own[i] == wanted) what(static_cast<int>(first + i));
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

// One block, a thread an expert: counts become the place of each block's first slot of each expert.
__global__ void __launch_bounds__(kMostExperts)
    CutTilesKernel(SortedSlots sorted, int32_t* counts, int blocks, int experts) {
  StartOverlapped();
  __shared__ int of_warps[2][32];
  const int expert = threadIdx.x;
  const bool real = expert < experts;
  int count = 0;
#pragma unroll 8
  for (int b = 0; b < blocks; ++b) count += real ? counts[int64_t{b} * experts + expert] : 0;
  int all_places, all_tiles;
  const int place = SumBefore(RoundUp(count, kSortedPadded), of_warps[0], &all_places);
  const int tile = SumBefore(CeilDiv(count, kSortedRows), of_warps[1], &all_tiles);
  if (threadIdx.x == 0) *sorted.count = all_tiles;
  if (!real) return;
  for (int i = 0; i * kSortedRows < count; ++i) {
    sorted.tiles[tile + i] = {expert, place + i * kSortedRows, min(kSortedRows, count - i * kSortedRows)};
  }
  int at = place;
#pragma unroll 8
  for (int b = 0; b < blocks; ++b) {
    int32_t& of_block = counts[int64_t{b} * experts + expert];
    const int here = of_block;
    of_block = at;
    at += here;
  }
}

__global__ void __launch_bounds__(kMostExperts)
    PlaceSlotsKernel(SortedSlots sorted, const int32_t* begins, const int32_t* chosen, int64_t slots, ExpertRun run) {
  StartOverlapped();
  int place = threadIdx.x < run.count ? begins[int64_t{blockIdx.x} * run.count + threadIdx.x] : 0;
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
         Arena::Rounded(sizeof(int32_t) * CeilDiv(slots, int64_t{kBlockSlots}) * experts);
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
  auto* counts = static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * blocks * experts));
  const dim3 grid(blocks), threads(RoundUp(experts, 32));
  LaunchOverlapped(device, CountSlotsKernel, grid, threads, 0, counts, routing.experts, slots, run);
  LaunchOverlapped(device, CutTilesKernel, dim3(1), threads, 0, sorted, counts, blocks, experts);
  LaunchOverlapped(device, PlaceSlotsKernel, grid, threads, 0, sorted, counts, routing.experts, slots, run);
  return sorted;
}

}  // namespace duo::cuda
