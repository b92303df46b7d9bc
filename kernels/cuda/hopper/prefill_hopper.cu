#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/hopper/prefill_hopper.cuh"
#include "kernels/cuda/hopper/prefill_hopper.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kMostSplits = 16;

// Partial results that are in use at once, in multiprocessors.
constexpr int kSlotsOfMultiprocessor = 2;

// Adds up the runs of one (KV head, row block) pair. One warp per row.
template <int kHeadDim, int kRows>
__global__ void MergeSplits(PrefillWork w) {
  constexpr int kPairs = kHeadDim / 64;  // of a lane
  const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  const int pair = warp / kRows, row = warp % kRows;
  if ((pair + 1) * w.splits > w.items - w.whole) return;
  const int head = (w.whole + pair) / w.row_blocks, row_block = w.row_blocks - 1 - (w.whole + pair) % w.row_blocks;
  const int packed = row_block * kRows + row, token = packed / w.group;
  if (token >= w.rows) return;
  float lse = -INFINITY;
  float2 x[kPairs] = {};
  for (int run = 0; run < w.splits; ++run) {
    const int64_t at = int64_t{pair * w.splits + run} * kRows + row;
    const MergedWeights weights = MergeWeights(lse, w.partial_lse[at]);
    lse = weights.lse;
    const float2* part = reinterpret_cast<const float2*>(w.partial + at * kHeadDim);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float2 p = part[lane + 32 * i];
      x[i].x = weights.a * x[i].x + weights.b * p.x;
      x[i].y = weights.a * x[i].y + weights.b * p.y;
    }
  }
  const int q_head = head * w.group + packed % w.group;
  uint32_t* out = reinterpret_cast<uint32_t*>(w.out + token * w.out_stride + q_head * kHeadDim);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) out[lane + 32 * i] = PackBf16(x[i].x, x[i].y);
  if (lane == 0 && w.lse != nullptr) w.lse[q_head * w.lse_stride + token] = lse;
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

template <int kHeadDim, int kConsumers>
void Launch(Device& device, PrefillWork& w, Arena& scratch) {
  using Shape = PrefillShape<kHeadDim, kConsumers>;
  const int multiprocessors = device.info().multiprocessors;
  w.row_blocks = static_cast<int>((int64_t{w.rows} * w.group + Shape::kRows - 1) / Shape::kRows);
  const int64_t tiles = w.pages_count + (w.has_own ? (w.rows + kTileKeys - 1) / kTileKeys : 0);
  Plan(w, w.heads * w.row_blocks, multiprocessors, tiles);
  const int64_t slots = int64_t{kSlotsOfMultiprocessor} * multiprocessors * Shape::kRows;
  w.partial = static_cast<float*>(scratch.Take(slots * kHeadDim * sizeof(float)));
  w.partial_lse = static_cast<float*>(scratch.Take(slots * sizeof(float)));
  w.counter = static_cast<uint32_t*>(scratch.Take(sizeof(uint32_t)));
  DUO_CUDA_CHECK(cudaMemsetAsync(w.counter, 0, sizeof(uint32_t), Stream(device)));
  const auto kernel = PrefillKernel<kHeadDim, kConsumers>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  kernel<<<std::min(w.items, multiprocessors), Shape::kThreads, Shape::kSharedBytes, Stream(device)>>>(w);
  DUO_CUDA_CHECK(cudaGetLastError());
  const int64_t merged = int64_t{(w.items - w.whole) / w.splits} * Shape::kRows;
  if (w.splits > 1) {
    MergeSplits<kHeadDim, Shape::kRows><<<(merged * 32 + 255) / 256, 256, 0, Stream(device)>>>(w);
    DUO_CUDA_CHECK(cudaGetLastError());
  }
}

}  // namespace

bool HopperPrefillUsable(const Device& device, const PageLayout& page) {
  return device.info().capability == 90 && page.format == KvFormat::kBF16 &&
         (page.head_dim == 64 || page.head_dim == 128);
}

size_t HopperPrefillScratchBytes(const Device& device, int head_dim) {
  const int64_t rows = head_dim == 64 ? PrefillShape<64, 3>::kRows : PrefillShape<128, 2>::kRows;
  const int64_t slots = int64_t{kSlotsOfMultiprocessor} * device.info().multiprocessors * rows;
  return Arena::Rounded(slots * head_dim * sizeof(float)) + Arena::Rounded(slots * sizeof(float)) +
         Arena::Rounded(sizeof(uint32_t));
}

void HopperPrefill(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                   const PagedKv& kv, bool own_square, Arena& scratch) {
  const SeqSpan& span = batch.host_spans[0];
  const int d = shape.head_dim, blocks = d / 64;
  const int64_t first_column = int64_t{kv.first_head} * d;
  PrefillWork w = {};
  w.q = qkv.as<bf16>() + span.first_row * qkv.stride + first_column * shape.group;
  w.q_stride = qkv.stride;
  w.out = out.as<bf16>() + span.first_row * out.stride + first_column * shape.group;
  w.out_stride = out.stride;
  w.lse = lse;
  w.lse_stride = span.num_rows;
  w.rows = span.num_rows;
  w.heads = kv.num_heads;
  w.group = shape.group;
  w.scale = kLog2e / sqrtf(static_cast<float>(d));
  w.history = span.history;
  w.window = kv.window;

  // The pages held here of those before this step, less those that a window hides from every row.
  const int64_t full_pages = span.history / kPageTokens, in_last = span.history % kPageTokens;
  w.last_tokens = kPageTokens;
  int64_t held = kv.held_count(full_pages);
  if (in_last > 0 && kv.holds(full_pages)) ++held, w.last_tokens = static_cast<int>(in_last);
  int64_t skipped = 0;
  if (kv.window > 0 && span.history + 1 > kv.window) {
    skipped = kv.held_count((span.history + 1 - kv.window) / kPageTokens);
  }
  w.first_held = static_cast<int>(skipped);
  w.pages_count = static_cast<int>(std::max<int64_t>(0, held - skipped));
  w.slots = kv.slots;
  w.first_slot = kv.first_slot;
  w.num_slots = kv.num_slots;
  const bf16* own = qkv.as<bf16>() + span.first_row * qkv.stride + shape.q_cols() + first_column;
  w.has_own = own_square;
  w.own_v = shape.kv_cols() / 64;
  w.own = BoxMap(own, w.rows, qkv.stride * sizeof(bf16), w.own_v + kv.num_heads * blocks, kTileKeys, blocks);
  w.pages = w.own;  // never read without pages
  if (w.pages_count > 0) {
    const int64_t row_bytes = d * sizeof(bf16), id_rows = kv.id_stride() / row_bytes;
    DUO_CHECK_EQ(kv.head_stride % row_bytes, 0);
    const int64_t head_rows = kv.head_stride / row_bytes;
    DUO_CHECK_LE(head_rows * kv.num_heads, int64_t{INT32_MAX});
    w.table = kv.tables + (kv.split ? span.split_table : span.table) * kv.table_stride;
    w.head_rows = static_cast<int>(head_rows);
    w.id_rows = static_cast<int>(id_rows);
    w.pages =
        BoxMap(reinterpret_cast<const bf16*>(kv.base), head_rows * kv.num_heads, row_bytes, blocks, kTileKeys, blocks);
  }
  const size_t mark = scratch.used();
  if (d == 64) {
    Launch<64, 3>(device, w, scratch);
  } else {
    Launch<128, 2>(device, w, scratch);
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
