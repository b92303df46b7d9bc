// Page lists of answers: a block a KV head. Each query head's shares are counted into bins of
// their size, as whole numbers, whose sums do not depend on the order of threads.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

using Rule = DecodeListRule;

constexpr int kThreads = 1024, kWarps = kThreads / 32, kMostGroup = 64;

struct Choosing {
  DecodeLists lists;
  ListChoice choice;
  const float* logs;  // [heads][group][pages]
  uint16_t* bins;     // [heads][pages]
};

struct Shared {
  uint32_t mass[ListShare::kBins];
  uint32_t counts[ListShare::kBins];
  float lse[kMostGroup];
  float floats[kWarps];
  uint32_t totals[kWarps];
  int result;
};

// What the block's threads have, put together; all threads get it.
__device__ float BlockMax(Shared& s, float x) {
  for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.floats[threadIdx.x / 32] = x;
  __syncthreads();
  x = s.floats[0];
  for (int w = 1; w < kWarps; ++w) x = fmaxf(x, s.floats[w]);
  return x;
}
__device__ float BlockSum(Shared& s, float x) {
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.floats[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (int w = 0; w < kWarps; ++w) x += s.floats[w];
  return x;
}
// The sum of what the threads before this one have; `total` becomes that of all.
__device__ uint32_t BlockBefore(Shared& s, uint32_t x, uint32_t* total) {
  const int lane = threadIdx.x % 32;
  uint32_t sum = x;
  for (int d = 1; d < 32; d *= 2) {
    const uint32_t below = __shfl_up_sync(0xffffffffu, sum, d);
    if (lane >= d) sum += below;
  }
  __syncthreads();
  if (lane == 31) s.totals[threadIdx.x / 32] = sum;
  __syncthreads();
  uint32_t before = 0;
  *total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < static_cast<int>(threadIdx.x) / 32) before += s.totals[w];
    *total += s.totals[w];
  }
  return before + sum - x;
}
__device__ uint32_t BlockTotal(Shared& s, uint32_t x) {
  uint32_t total = 0;
  BlockBefore(s, x, &total);
  return total;
}

// One KV head of the choosing row.
struct HeadShares {
  const float* logs;  // [group][pages]
  uint16_t* bins;     // [pages]
  int pages, group;
  Shared& s;

  __device__ float LogShare(int g, int page) const { return logs[int64_t{g} * pages + page] - s.lse[g]; }
  __device__ uint32_t Share(int g, int page) const { return ListShare::Of(LogShare(g, page)); }

  __device__ void FindLse() const {
    for (int g = 0; g < group; ++g) {
      const float* of = logs + int64_t{g} * pages;
      float top = -INFINITY, sum = 0;
      for (int j = threadIdx.x; j < pages; j += kThreads) top = fmaxf(top, of[j]);
      top = BlockMax(s, top);
      for (int j = threadIdx.x; j < pages; j += kThreads) sum += expf(of[j] - top);
      sum = BlockSum(s, sum);
      if (threadIdx.x == 0) s.lse[g] = top + logf(sum);
    }
    __syncthreads();
  }
  __device__ void FindBins(int tail) const {
    for (int j = threadIdx.x; j < tail; j += kThreads) {
      float largest = -INFINITY;
      for (int g = 0; g < group; ++g) largest = fmaxf(largest, LogShare(g, j));
      bins[j] = static_cast<uint16_t>(ListShare::Bin(largest));
    }
    __syncthreads();
  }
  // What a list kept: the mean and the least over the query heads, in the head.
  __device__ void Measure(const int32_t* list, ListedHead* head) const {
    float sum = 0, least = 1;
    for (int g = 0; g < group; ++g) {
      uint32_t mine = 0;
      for (int i = threadIdx.x; i < head->length; i += kThreads) mine += Share(g, list[i]);
      for (int j = head->tail + static_cast<int>(threadIdx.x); j < pages; j += kThreads) mine += Share(g, j);
      const float kept = fminf(1.0f, static_cast<float>(BlockTotal(s, mine)) / ListShare::kWhole);
      sum += kept;
      least = fminf(least, kept);
    }
    head->kept = sum / group;
    head->least = least;
  }
  // The first bin at which `first` and the values of the bins up to it reach `wanted`, or the last bin.
  __device__ int Reach(const uint32_t* values, uint32_t first, uint32_t wanted) const {
    constexpr int kEach = ListShare::kBins / kThreads;
    const int begin = threadIdx.x * kEach;
    uint32_t mine = 0, total = 0;
    for (int i = 0; i < kEach; ++i) mine += values[begin + i];
    uint32_t sum = first + BlockBefore(s, mine, &total);
    if (threadIdx.x == 0) s.result = ListShare::kBins - 1;
    __syncthreads();
    if ((begin == 0 || sum < wanted) && sum + mine >= wanted) {
      int bin = begin;
      for (sum += values[bin]; sum < wanted;) sum += values[++bin];
      s.result = bin;
    }
    __syncthreads();
    return s.result;
  }
  __device__ int LastBin(int tail, int target) const {
    int last = 0;
    for (int g = 0; g < group; ++g) {
      __syncthreads();
      for (int b = threadIdx.x; b < ListShare::kBins; b += kThreads) s.mass[b] = s.counts[b] = 0;
      __syncthreads();
      uint32_t always = 0;
      for (int j = threadIdx.x; j < pages; j += kThreads) {
        const uint32_t share = Share(g, j);
        if (j >= tail || Rule::Always(j)) {
          always += share;
          continue;
        }
        atomicAdd(&s.mass[bins[j]], share);
        if (g == 0) atomicAdd(&s.counts[bins[j]], 1);
      }
      always = BlockTotal(s, always);
      last = max(last, Reach(s.mass, always, ListShare::Wanted(target)));
      if (g > 0) continue;
      const uint32_t visited = pages - tail + min(tail, Rule::kSinkPages);
      last = max(last, Reach(s.counts, visited, Rule::kLeastPages));
    }
    return last;
  }
};

__global__ void __launch_bounds__(kThreads) ChooseKernel(Choosing c) {
  __shared__ Shared s;
  const int h = blockIdx.x, pages = c.choice.pages, group = c.choice.group;
  const int64_t at = c.lists.at(c.choice.slot, h);
  int32_t* list = c.lists.pages + at * c.lists.stride;
  const HeadShares of = {c.logs + int64_t{h} * group * pages, c.bins + int64_t{h} * pages, pages, group, s};
  ListedHead before = c.lists.heads[at], made;
  of.FindLse();
  if (c.choice.again && before.tail > 0) {
    of.Measure(list, &before);
    made.kept = before.kept;
    made.least = before.least;
  }
  made.pages = pages;
  made.tail = Rule::Tail(pages);
  of.FindBins(made.tail);
  const int last = of.LastBin(made.tail, c.choice.target);
  const auto listed = [&](int j) { return j < made.tail && (Rule::Always(j) || of.bins[j] <= last); };
  uint32_t mine = 0, total = 0;
  for (int j = threadIdx.x; j < made.tail; j += kThreads) mine += listed(j);
  made.length = static_cast<int32_t>(BlockTotal(s, mine));
  if (Rule::TooMany(made.length + pages - made.tail, pages)) made.length = made.tail = 0;
  uint32_t next = 0;
  for (int base = 0; base < made.tail; base += kThreads) {  // ascending
    const int j = base + threadIdx.x;
    const bool take = listed(j);
    const uint32_t place = next + BlockBefore(s, take ? 1 : 0, &total);
    if (take) list[place] = j;
    next += total;
  }
  if (threadIdx.x == 0) c.lists.heads[at] = made;
}

int64_t BinBytes(const DecodeLists& lists, int64_t pages) { return int64_t{2} * lists.num_heads * pages; }

}  // namespace

size_t ChooseListsScratchBytes(const Device&, const DecodeLists& lists, int64_t max_tokens) {
  return Arena::Rounded(BinBytes(lists, max_tokens / kPageTokens + 1));
}

void ChooseLists(Device& device, const DecodeLists& lists, const ListChoice& choice, const float* logs,
                 Arena& scratch) {
  DUO_CHECK_LE(choice.group, kMostGroup);
  const size_t mark = scratch.used();
  auto* bins = static_cast<uint16_t*>(scratch.Take(BinBytes(lists, choice.pages)));
  ChooseKernel<<<lists.num_heads, kThreads, 0, Stream(device)>>>({lists, choice, logs, bins});
  DUO_CUDA_CHECK(cudaGetLastError());
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
