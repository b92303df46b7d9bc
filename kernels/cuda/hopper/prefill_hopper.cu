#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/hopper/prefill_compute.cuh"
#include "kernels/cuda/hopper/prefill_fetch.cuh"
#include "kernels/cuda/hopper/prefill_hopper.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/kv/kv_gather.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kMostSplits = 16;

// Partial results that are in use at once, in multiprocessors.
constexpr int kSlotsOfMultiprocessor = 2;

template <int kHeadDim, int kConsumers, bool kListed>
__global__ void __launch_bounds__(PrefillShape<kHeadDim, kConsumers>::kThreads, 1)
    PrefillKernel(const __grid_constant__ PrefillWork w) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = PrefillShape<kHeadDim, kConsumers>;
  extern __shared__ uint8_t shared[];
  const uint32_t base = (SharedAddress(shared) + 1023) / 1024 * 1024;
  const uint32_t q_shared = base, k_shared = q_shared + Shape::kQBytes,
                 v_shared = k_shared + Shape::kStages * Shape::kTileBytes,
                 end = v_shared + Shape::kStages * Shape::kTileBytes;
  volatile int* items = reinterpret_cast<volatile int*>(shared + (end - SharedAddress(shared)));
  const PrefillBarriers<Shape::kStages> barriers = {end + 16};
  if (threadIdx.x == 0) {
    BarrierInit(barriers.QFull(), 96);
    BarrierInit(barriers.QEmpty(), 4 * kConsumers);
    BarrierInit(barriers.Cleared(), 1);
    for (int i = 0; i < 2; ++i) {
      BarrierInit(barriers.ItemFull(i), 1);
      BarrierInit(barriers.ItemEmpty(i), 4 * kConsumers + 3);
    }
    for (int s = 0; s < Shape::kStages; ++s) {
      BarrierInit(barriers.KFull(s), 1);
      BarrierInit(barriers.VFull(s), 1);
      BarrierInit(barriers.KEmpty(s), 4 * kConsumers);
      BarrierInit(barriers.VEmpty(s), 4 * kConsumers);
    }
    BarrierInitFence();
  }
  __syncthreads();
  const int group = Uniform(threadIdx.x / 128);
  if (group == 0) {
    ShrinkRegisters<Shape::kProducerRegisters>();
    if (threadIdx.x < 32) {
      FetchTiles<kHeadDim, kConsumers, kListed>(w, barriers, k_shared, v_shared, items);
    } else {
      FetchQueries<kHeadDim, kConsumers, kListed>(w, barriers, q_shared, items, threadIdx.x - 32);
    }
  } else {
    GrowRegisters<Shape::kConsumerRegisters>();
    Compute<kHeadDim, kConsumers, kListed>(w, barriers, q_shared, k_shared, v_shared, items, group - 1);
  }
#endif
}

// Adds up the runs of one (KV head, row block) pair. Four threads a row, which hold its columns as those do that
// computed them.
template <int kHeadDim, int kRows>
__global__ void MergeSplits(const __grid_constant__ PrefillWork w) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const int thread = blockIdx.x * blockDim.x + threadIdx.x, c = thread % 4;
  const int pair = thread / 4 / kRows, row = thread / 4 % kRows;
  if ((pair + 1) * w.splits > w.items - w.whole) return;
  const int head = (w.whole + pair) / w.row_blocks, row_block = w.row_blocks - 1 - (w.whole + pair) % w.row_blocks;
  const int packed = row_block * kRows + row, token = w.first_row + packed / w.group;
  if (token >= w.rows) return;
  float lse = -INFINITY;
  float2 x[kHeadDim / 8] = {};
  for (int run = 0; run < w.splits; ++run) {
    const int64_t at = int64_t{pair * w.splits + run} * kRows + row;
    const MergedWeights weights = MergeWeights(lse, w.partial_lse[at]);
    lse = weights.lse;
    const float* part = w.partial + at * kHeadDim + 2 * c;
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      const float2 p = *reinterpret_cast<const float2*>(part + 8 * j);
      x[j].x = weights.a * x[j].x + weights.b * p.x;
      x[j].y = weights.a * x[j].y + weights.b * p.y;
    }
  }
  Store<kHeadDim>(w, token, head * w.group + packed % w.group, lse, c, [&](int j) { return x[j]; });
#endif
}

// How the (KV head, row block) pairs are dealt out: as many as fill the GPU whole times are items of their own; the
// rest is cut into runs so that the last round is as full as the others.
void Plan(PrefillWork& w, int pairs, int multiprocessors, int64_t tiles) {
  const int rest = pairs % multiprocessors;
  w.whole = pairs - rest;
  w.splits = 1;
  double best = rest > 0 ? 1 : 0;
  const int most =
      std::min<int64_t>({kMostSplits, tiles / 4, kSlotsOfMultiprocessor * multiprocessors / std::max(1, rest)});
  for (int splits = 2; splits <= most; ++splits) {
    const double rounds = double((rest * splits + multiprocessors - 1) / multiprocessors) / splits;
    if (rounds < best - 0.03) best = rounds, w.splits = splits;
  }
  if (w.splits == 1) w.whole = pairs;
  w.items = w.whole + (pairs - w.whole) * w.splits;
}

template <int kHeadDim, int kConsumers, bool kListed>
void Launch(Device& device, PrefillWork w) {
  using Shape = PrefillShape<kHeadDim, kConsumers>;
  const int multiprocessors = device.info().multiprocessors, rows = w.rows - w.first_row;
  w.row_blocks = static_cast<int>((int64_t{rows} * w.group + Shape::kRows - 1) / Shape::kRows);
  const int64_t tiles = kListed ? std::min<int64_t>(w.list_stride, w.pages_count) + 1
                                : w.pages_count + (w.has_own ? (w.rows + kTileKeys - 1) / kTileKeys : 0);
  Plan(w, w.heads * w.row_blocks, multiprocessors, tiles);
  DUO_CUDA_CHECK(cudaMemsetAsync(w.counter, 0, sizeof(uint32_t), Stream(device)));
  const auto kernel = PrefillKernel<kHeadDim, kConsumers, kListed>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  kernel<<<std::min(w.items, multiprocessors), Shape::kThreads, Shape::kSharedBytes, Stream(device)>>>(w);
  DUO_CUDA_CHECK(cudaGetLastError());
  if (w.splits > 1) {
    const int64_t threads = int64_t{(w.items - w.whole) / w.splits} * Shape::kRows * 4;
    MergeSplits<kHeadDim, Shape::kRows><<<(threads + 127) / 128, 128, 0, Stream(device)>>>(w);
    DUO_CUDA_CHECK(cudaGetLastError());
  }
}
void Launch(Device& device, int head_dim, const PrefillWork& w) {
  if (w.lists != nullptr) {  // of the same rows for every head size: a block's
    head_dim == 64 ? Launch<64, 2, true>(device, w) : Launch<128, 2, true>(device, w);
  } else if (head_dim == 64) {
    Launch<64, 3, false>(device, w);
  } else {
    Launch<128, 2, false>(device, w);
  }
}

// Coded pages: so many bytes of bf16 pages at a time, for so many rows at a time, so that what is to be added up does
// not grow with a chunk.
constexpr int64_t kStagingBytes = int64_t{64} << 20;
constexpr int kSliceRows = 8192;

int64_t Bf16PageBytes(int head_dim) { return PageLayout{KvFormat::kBF16, head_dim}.page_bytes(); }
// Pages of each head that the staging holds, of so many.
int64_t StagedPages(int64_t pages, int heads, int head_dim) {
  const int64_t room = std::max<int64_t>(1, kStagingBytes / (heads * Bf16PageBytes(head_dim)));
  const int64_t launches = std::max<int64_t>(1, (pages + room - 1) / room);
  return (pages + launches - 1) / launches;
}
int64_t SlotRows(const Device& device, int head_dim) {
  const int rows = head_dim == 64 ? PrefillShape<64, 3>::kRows : PrefillShape<128, 2>::kRows;
  return int64_t{kSlotsOfMultiprocessor} * device.info().multiprocessors * rows;
}

// The pages held here, of the history, that some row sees.
struct HeldPages {
  int first, count;
  int last_tokens;  // in the last
};
HeldPages HistoryPages(const SeqSpan& span, const PagedKv& kv) {
  const int64_t full_pages = span.history / kPageTokens, in_last = span.history % kPageTokens;
  HeldPages pages = {0, static_cast<int>(kv.held_count(full_pages)), kPageTokens};
  if (in_last > 0 && kv.holds(full_pages)) ++pages.count, pages.last_tokens = static_cast<int>(in_last);
  if (kv.window > 0 && span.history + 1 > kv.window) {
    pages.first = static_cast<int>(kv.held_count((span.history + 1 - kv.window) / kPageTokens));
  }
  pages.count = std::max(0, pages.count - pages.first);
  return pages;
}

void AttendInPlace(Device& device, PrefillWork w, const HeldPages& pages, const PagedKv& kv, int table) {
  const int d = kv.page.head_dim;
  w.first_held = pages.first;
  w.pages_count = pages.count;
  w.last_tokens = pages.last_tokens;
  if (pages.count > 0) {
    const int64_t row_bytes = d * sizeof(bf16);
    DUO_CHECK_EQ(kv.head_stride % row_bytes, 0);
    const int64_t head_rows = kv.head_stride / row_bytes;
    DUO_CHECK_LE(head_rows * kv.num_heads, int64_t{INT32_MAX});
    w.table = kv.tables + table * kv.table_stride;
    w.head_rows = static_cast<int>(head_rows);
    w.id_rows = static_cast<int>(kv.id_stride() / row_bytes);
    w.pages =
        BoxMap(reinterpret_cast<const bf16*>(kv.base), head_rows * kv.num_heads, row_bytes, d / 64, kTileKeys, d / 64);
  }
  Launch(device, d, w);
}

void AttendStaged(Device& device, PrefillWork w, const HeldPages& pages, const PagedKv& kv, int table, Arena& scratch) {
  const int d = kv.page.head_dim, q_heads = w.heads * w.group, rows = w.rows, has_own = w.has_own;
  const int64_t page_elements = int64_t{2} * kPageTokens * d;
  const int staged = static_cast<int>(StagedPages(pages.count, w.heads, d));
  auto* staging = static_cast<bf16*>(scratch.Take(w.heads * staged * page_elements * sizeof(bf16)));
  float* lse[2] = {};
  if (staged < pages.count) {
    const int64_t items = int64_t{std::min(rows, kSliceRows)} * q_heads;
    w.sum = static_cast<float*>(scratch.Take(items * d * sizeof(float)));
    for (float*& x : lse) x = static_cast<float*>(scratch.Take(items * sizeof(float)));
  }
  w.head_rows = 2 * kPageTokens * staged;
  w.id_rows = 2 * kPageTokens;
  w.pages = BoxMap(staging, int64_t{w.head_rows} * w.heads, d * sizeof(bf16), d / 64, kTileKeys, d / 64);
  const int slice_rows = staged < pages.count ? kSliceRows : rows;
  for (int row = 0; row < rows; row += slice_rows) {
    w.first_row = row;
    w.rows = std::min(rows, row + slice_rows);
    for (int first = 0, launch = 0; first < pages.count; first += staged, ++launch) {
      const bool last = first + staged >= pages.count;
      w.first_held = pages.first + first;
      w.pages_count = std::min(staged, pages.count - first);
      w.last_tokens = last ? pages.last_tokens : kPageTokens;
      w.has_own = last && has_own;
      w.sum_lse = launch > 0 ? lse[launch % 2] : nullptr;
      w.next_sum_lse = last ? nullptr : lse[1 - launch % 2];
      const int64_t tokens = int64_t{w.pages_count - 1} * kPageTokens + w.last_tokens;
      GatherPages(device, staging, staging + kPageTokens * d, {staged * page_elements, page_elements}, kv, table,
                  int64_t{w.first_held} * kPageTokens, tokens);
      Launch(device, d, w);
    }
  }
}

}  // namespace

bool HopperPrefillUsable(const Device& device, const PageLayout& page) {
  return IsHopper(device) && page.format != KvFormat::kF32 && (page.head_dim == 64 || page.head_dim == 128);
}

size_t HopperPrefillScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens) {
  const int d = kv.page.head_dim;
  const int64_t slot_rows = SlotRows(device, d);
  size_t bytes = Arena::Rounded(slot_rows * d * sizeof(float)) + Arena::Rounded(slot_rows * sizeof(float)) +
                 Arena::Rounded(sizeof(uint32_t));
  if (kv.page.format == KvFormat::kBF16) return bytes;
  const int64_t room = std::max<int64_t>(1, kStagingBytes / (kv.num_heads * Bf16PageBytes(d)));
  const int64_t pages = kv.held_count((max_tokens + kPageTokens - 1) / kPageTokens);
  bytes += Arena::Rounded(std::min(pages, room) * kv.num_heads * Bf16PageBytes(d));
  if (pages > room) {
    const int64_t items = int64_t{std::min(rows, kSliceRows)} * kv.num_heads * group;
    bytes += Arena::Rounded(items * d * sizeof(float)) + 2 * Arena::Rounded(items * sizeof(float));
  }
  return bytes;
}

namespace {

// What dense and listed attention of a span's rows have alike: where queries, own keys and results lie.
PrefillWork WorkOf(View out, float* lse, View qkv, const HeadShape& shape, const SeqSpan& span, const PagedKv& kv) {
  const int d = shape.head_dim;
  const int64_t first_column = int64_t{kv.first_head} * d;
  PrefillWork w = {};
  w.q = qkv.as<bf16>() + span.first_row * qkv.stride + first_column * shape.group;
  w.q_stride = qkv.stride;
  w.out = out.as<bf16>() + span.first_row * out.stride + first_column * shape.group;
  w.out_stride = out.stride;
  w.lse = lse;
  w.lse_stride = w.rows = span.num_rows;
  w.heads = kv.num_heads;
  w.group = shape.group;
  w.scale = kLog2e / sqrtf(static_cast<float>(d));
  w.history = span.history;
  const bf16* own = qkv.as<bf16>() + span.first_row * qkv.stride + shape.q_cols() + first_column;
  w.own_v = shape.kv_cols() / 64;
  w.own = BoxMap(own, w.rows, qkv.stride * sizeof(bf16), w.own_v + kv.num_heads * (d / 64), kTileKeys, d / 64);
  w.pages = w.own;  // never read without pages
  return w;
}

void Attend(Device& device, PrefillWork* w, const HeldPages& pages, const PagedKv& kv, int table, Arena& scratch) {
  const size_t mark = scratch.used();
  const int64_t slot_rows = SlotRows(device, kv.page.head_dim);
  w->partial = static_cast<float*>(scratch.Take(slot_rows * kv.page.head_dim * sizeof(float)));
  w->partial_lse = static_cast<float*>(scratch.Take(slot_rows * sizeof(float)));
  w->counter = static_cast<uint32_t*>(scratch.Take(sizeof(uint32_t)));
  if (kv.page.format == KvFormat::kBF16 || pages.count == 0) {
    AttendInPlace(device, *w, pages, kv, table);
  } else {
    AttendStaged(device, *w, pages, kv, table, scratch);
  }
  scratch.Rewind(mark);
}

}  // namespace

void HopperPrefill(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                   const PagedKv& kv, bool own_square, Arena& scratch) {
  const SeqSpan& span = batch.host_spans[0];
  PrefillWork w = WorkOf(out, lse, qkv, shape, span, kv);
  w.window = kv.window;
  w.slots = kv.slots;
  w.first_slot = kv.first_slot;
  w.num_slots = kv.num_slots;
  w.has_own = own_square;
  Attend(device, &w, HistoryPages(span, kv), kv, kv.split ? span.split_table : span.table, scratch);
}

void HopperListedPrefill(Device& device, View out, float* lse, const StepRows& rows, const PagedKv& kv,
                         const PageLists& lists, Arena& scratch) {
  const SeqSpan& span = rows.batch.host_spans[0];
  PrefillWork w = WorkOf(out, lse, rows.qkv, rows.shape, span, kv);
  w.slots = w.num_slots = 1;
  w.list_lengths = lists.lengths;
  w.lists = lists.pages;
  w.list_stride = lists.stride;
  w.first_block = lists.first_block;
  w.blocks = lists.blocks;
  w.own_page = lists.own;
  Attend(device, &w, {0, (span.history + span.num_rows) / kPageTokens, kPageTokens}, kv, span.table, scratch);
}

}  // namespace duo::cuda
