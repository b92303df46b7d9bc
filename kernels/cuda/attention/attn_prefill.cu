// Prefill attention of retrieval heads. History is gathered from pages of any codec to contiguous bf16, a segment at a
// time, and attended densely; the step's own tokens are attended from qkv; partials merge by their lse in f32.
//
// On Hopper, hopper/prefill_hopper.h does it instead.
// With cuDNN the rows are cut into slices (prefill_shapes.h). A slice sees the step's tokens before it as a rectangle,
// its own as a causal square.
#include <algorithm>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/attention/attn_cudnn.h"
#include "kernels/cuda/attention/flash.h"
#include "kernels/cuda/attention/prefill_shapes.h"
#include "kernels/cuda/hopper/prefill_hopper.h"
#include "kernels/cuda/kv/kv_gather.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// Merges one partial into the running sum of a slice. One warp per (row, query head). First: the sum is empty. Last:
// the result goes to `out`, bf16.
struct MergeArgs {
  float* sum;      // [rows][heads * head_dim]
  float* sum_lse;  // [rows][heads]
  const bf16* part;
  int64_t part_stride, part_head_stride;
  const float* part_lse;  // [heads][part_lse_stride]
  int64_t part_lse_stride;
  int splits;  // partials of the same rows to merge at once
  int64_t part_split_stride, part_lse_split_stride;
  bf16* out;
  int64_t out_stride;
  float* lse;  // [heads][lse_stride] or null
  int64_t lse_stride;
  int64_t rows;
  int heads;
  bool first, last;
};
template <int kHeadDim>
__global__ void MergePartialKernel(MergeArgs a) {
  constexpr int kPairs = kHeadDim / 64;  // of a lane
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (item >= a.rows * a.heads) return;
  const int64_t row = item / a.heads;
  const int head = item % a.heads;
  const bf16* part = a.part + row * a.part_stride + head * a.part_head_stride;
  const float* part_lse = a.part_lse + head * a.part_lse_stride + row;
  float2* sum = reinterpret_cast<float2*>(a.sum + item * kHeadDim);
  uint32_t* out = reinterpret_cast<uint32_t*>(a.out + row * a.out_stride + int64_t{head} * kHeadDim);
  float lse = -INFINITY;
  float2 x[kPairs] = {};
  if (!a.first) {
    lse = a.sum_lse[item];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) x[i] = sum[lane + 32 * i];
  }
  for (int split = 0; split < a.splits; ++split) {
    const MergedWeights weights = MergeWeights(lse, part_lse[split * a.part_lse_split_stride]);
    lse = weights.lse;
    if (weights.b == 0) continue;  // an empty part may hold anything
    const uint32_t* pairs = reinterpret_cast<const uint32_t*>(part + split * a.part_split_stride);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const uint32_t p = pairs[lane + 32 * i];
      x[i].x = weights.a * x[i].x + weights.b * LowBf16(p);
      x[i].y = weights.a * x[i].y + weights.b * HighBf16(p);
    }
  }
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    if (a.last) {
      out[lane + 32 * i] = PackBf16(x[i].x, x[i].y);
    } else {
      sum[lane + 32 * i] = x[i];
    }
  }
  __syncwarp();  // every lane has read the lse
  if (lane != 0) return;
  if (!a.last) a.sum_lse[item] = lse;
  if (a.last && a.lse != nullptr) a.lse[head * a.lse_stride + row] = lse;
}

__global__ void EmptyKernel(bf16* out, int64_t stride, float* lse, int64_t rows, int cols, int heads) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < rows * cols) out[i / cols * stride + i % cols] = bf16{0};
  if (lse != nullptr && i < rows * heads) lse[i] = -INFINITY;
}

// Runs that the flash kernel cuts keys into, so that few rows still fill the GPU.
int Splits(const Device& device, int64_t rows, int64_t q_heads) {
  const int64_t blocks = CeilDiv(rows, kTileRows) * q_heads;
  return static_cast<int>(std::max<int64_t>(1, device.info().multiprocessors / blocks));
}
// Rows x query heads of partial results: a slice's, or those of all its splits.
int64_t PartRows(const Device& device, int64_t capacity, int64_t q_heads) {
  return std::max(capacity * q_heads, device.info().multiprocessors * kTileRows);
}

// One layer's prefill in the making.
struct Prefill {
  Device& device;
  DenseAttention args;  // q of the step in qkv
  bool cudnn = false;
  std::vector<Slice> slices;
  int64_t key_capacity = 0;  // of history
  bf16* q = nullptr;         // with cuDNN: slices one after the other, each [query head][capacity][head_dim]
  bf16* part = nullptr;
  float* part_lse = nullptr;
  float* sum = nullptr;
  float* sum_lse = nullptr;
  View out;
  float* lse = nullptr;

  // The slice's rows over `count` keys [head][head_stride] in memory; `keys` says where and which.
  void Add(Slice& slice, DenseAttention keys, bool causal) {
    const int q_heads = args.heads * args.group, d = args.head_dim;
    keys.heads = args.heads;
    keys.group = args.group;
    keys.head_dim = d;
    keys.rows = static_cast<int>(slice.rows);
    keys.first_position = args.first_position + slice.first;
    keys.window = args.window;
    keys.out = part;
    keys.lse = part_lse;
    keys.lse_stride = slice.capacity;
    keys.splits = cudnn ? 1 : Splits(device, slice.rows, q_heads);
    keys.out_split_stride = slice.rows * q_heads * d;
    keys.lse_split_stride = slice.capacity * q_heads;
    if (cudnn) {
      keys.q = q + slice.first * q_heads * d;
      keys.q_stride = keys.out_stride = d;
      keys.q_head_stride = keys.out_head_stride = slice.capacity * d;
    } else {
      keys.q = args.q + slice.first * args.q_stride;
      keys.q_stride = args.q_stride;
      keys.q_head_stride = keys.out_head_stride = d;
      keys.out_stride = int64_t{q_heads} * d;
    }
    Attend(slice, keys, causal);
    Merge(slice, keys.splits);
  }

 private:
  void Attend(const Slice& slice, const DenseAttention& keys, bool causal) {
    if (!cudnn) return FlashDense(device, keys);
    CudnnShape shape;
    shape.group = args.group;
    shape.head_dim = args.head_dim;
    shape.row_capacity = slice.capacity;
    shape.key_capacity = causal ? slice.capacity : std::max(key_capacity, PowerOfTwo(keys.keys, kLeastKeys));
    shape.causal = causal;
    // A causal square hides the keys past the last row from all rows that count.
    shape.whole = causal || keys.keys == shape.key_capacity;
    CudnnCalls calls(device, static_cast<int>(slice.capacity), static_cast<int>(keys.keys), shape.whole);
    for (int head = 0; head < args.heads; head += shape.heads) {
      shape.heads = HeadsAtOnce(args.heads - head, args.group, slice.capacity);
      shape.key_head_stride = shape.heads == 1 ? 0 : keys.head_stride / args.head_dim;
      DenseAttention some = keys;
      const int64_t first_q = int64_t{head} * args.group;
      some.heads = shape.heads;
      some.q += first_q * some.q_head_stride;
      some.out += first_q * some.out_head_stride;
      some.lse += first_q * some.lse_stride;
      some.k += head * some.head_stride;
      some.v += head * some.head_stride;
      if (!calls.Attend(shape, some)) FlashDense(device, some);
    }
  }

  void Merge(Slice& slice, int splits) {
    const int q_heads = args.heads * args.group, d = args.head_dim;
    ++slice.done;
    MergeArgs merge = {};
    merge.sum = sum + slice.first * q_heads * d;
    merge.sum_lse = sum_lse + slice.first * q_heads;
    merge.part = part;
    merge.part_stride = cudnn ? d : int64_t{q_heads} * d;
    merge.part_head_stride = cudnn ? slice.capacity * d : d;
    merge.part_lse = part_lse;
    merge.part_lse_stride = slice.capacity;
    merge.splits = splits;
    merge.part_split_stride = slice.rows * q_heads * d;
    merge.part_lse_split_stride = slice.capacity * q_heads;
    merge.out = out.as<bf16>() + slice.first * out.stride;
    merge.out_stride = out.stride;
    merge.lse = lse == nullptr ? nullptr : lse + slice.first;
    merge.lse_stride = args.rows;
    merge.rows = slice.rows;
    merge.heads = q_heads;
    merge.first = slice.done == 1;
    merge.last = slice.done == slice.partials;
    const int64_t blocks = CeilDiv(slice.rows * q_heads, 8);
    const auto kernel = d == 64 ? MergePartialKernel<64> : MergePartialKernel<128>;
    kernel<<<blocks, 256, 0, Stream(device)>>>(merge);
    DUO_CUDA_CHECK(cudaGetLastError());
  }
};

}  // namespace

size_t PrefillScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens) {
  if (HopperPrefillUsable(device, kv.page)) {
    return HopperPrefillScratchBytes(device, rows, group, kv, max_tokens);
  }
  // As if by cuDNN, which needs most. A capacity of fewer rows is never larger, but for the padding.
  const int64_t d = kv.page.head_dim, heads = kv.num_heads, cols = heads * group * d;
  const int64_t capacity = RowCapacity(rows);
  return 2 * Arena::Rounded(heads * KeyTokens(rows, max_tokens, true) * d * sizeof(bf16)) +  // K and V
         Arena::Rounded(capacity * cols * sizeof(bf16)) +                                    // q
         Arena::Rounded(PartRows(device, capacity, heads * group) * d * sizeof(bf16)) +      // one partial
         Arena::Rounded(PartRows(device, capacity, heads * group) * sizeof(float)) +         // its lse
         Arena::Rounded(rows * cols * sizeof(float)) +                                       // their sum
         Arena::Rounded(rows * heads * group * sizeof(float));                               // its lse
}

void AttendPrefill(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                   const PagedKv& kv, bool own_square, Arena& scratch) {
  if (HopperPrefillUsable(device, kv.page)) {
    return HopperPrefill(device, out, lse, qkv, shape, batch, kv, own_square, scratch);
  }
  const SeqSpan& span = batch.host_spans[0];
  const int rows = span.num_rows, d = shape.head_dim, heads = kv.num_heads, q_heads = heads * shape.group;
  const int64_t first_column = int64_t{kv.first_head} * d;

  // Tokens of the pages held here: those before this step, less those that a window hides from every row.
  const int64_t full_pages = span.history / kPageTokens, in_last = span.history % kPageTokens;
  int64_t held_tokens = kv.held_count(full_pages) * kPageTokens;
  if (in_last > 0 && kv.holds(full_pages)) held_tokens += in_last;
  int64_t skipped = 0;
  if (kv.window > 0 && span.history + 1 > kv.window) {
    skipped = kv.held_count((span.history + 1 - kv.window) / kPageTokens) * kPageTokens;
  }
  const int64_t segment = SegmentTokens(batch.max_tokens);
  const int64_t segments = held_tokens > skipped ? CeilDiv(held_tokens - skipped, segment) : 0;

  Prefill p = {device};
  p.out = out.Rows(span.first_row, rows).Cols(first_column * shape.group, int64_t{q_heads} * d);
  p.lse = lse;
  if (segments == 0 && !own_square) {
    const int64_t items = int64_t{rows} * q_heads * d;
    EmptyKernel<<<CeilDiv(items, 256), 256, 0, Stream(device)>>>(p.out.as<bf16>(), p.out.stride, lse, rows, q_heads * d,
                                                                 q_heads);
    DUO_CUDA_CHECK(cudaGetLastError());
    return;
  }
  p.args.q = qkv.as<bf16>() + span.first_row * qkv.stride + first_column * shape.group;
  p.args.q_stride = qkv.stride;
  p.args.rows = rows;
  p.args.heads = heads;
  p.args.group = shape.group;
  p.args.head_dim = d;
  p.args.first_position = span.history;
  p.args.window = kv.window;
  p.cudnn = kv.window == 0 && rows >= kLeastRows && CudnnUsable(device);
  p.slices = p.cudnn ? CutRows(rows) : std::vector<Slice>{{0, rows, rows}};
  p.key_capacity = KeyCapacity(batch.max_tokens);
  const int64_t row_capacity = p.slices.back().first + p.slices.back().capacity;
  int64_t most = 0;
  for (Slice& slice : p.slices) {
    slice.partials = segments + (own_square ? 1 + (slice.first > 0) : 0);
    most = std::max(most, slice.capacity);
  }
  const size_t mark = scratch.used();
  auto take = [&](int64_t elements, size_t size) { return scratch.Take(elements * size); };
  const int64_t tokens = KeyTokens(rows, batch.max_tokens, p.cudnn);
  auto* k = static_cast<bf16*>(take(heads * tokens * d, sizeof(bf16)));
  auto* v = static_cast<bf16*>(take(heads * tokens * d, sizeof(bf16)));
  p.part = static_cast<bf16*>(take(PartRows(device, most, q_heads) * d, sizeof(bf16)));
  p.part_lse = static_cast<float*>(take(PartRows(device, most, q_heads), sizeof(float)));
  p.sum = static_cast<float*>(take(int64_t{rows} * q_heads * d, sizeof(float)));
  p.sum_lse = static_cast<float*>(take(int64_t{rows} * q_heads, sizeof(float)));
  if (p.cudnn) {
    p.q = static_cast<bf16*>(take(row_capacity * q_heads * d, sizeof(bf16)));
    for (const Slice& slice : p.slices) {
      SplitHeads(device, p.q + slice.first * q_heads * d, slice.capacity, p.args.q + slice.first * qkv.stride,
                 qkv.stride, slice.rows, q_heads, d);
    }
  }
  // The weight of a key past the last one is 0, and 0 times its V must be 0.
  auto clear_tail = [&](int64_t keys, int64_t end) {
    const int64_t tail = std::min(tokens, end) - keys;
    if (!p.cudnn || tail <= 0) return;
    for (bf16* x : {k, v}) {
      DUO_CUDA_CHECK(cudaMemset2DAsync(x + keys * d, tokens * d * sizeof(bf16), 0, tail * d * sizeof(bf16), heads,
                                       Stream(device)));
    }
  };

  if (own_square) {
    DenseAttention own = {};
    own.k = qkv.as<bf16>() + span.first_row * qkv.stride + shape.q_cols() + first_column;
    own.v = own.k + shape.kv_cols();
    own.token_stride = qkv.stride;
    own.head_stride = d;
    own.keys = rows;
    own.first_key = span.history;
    own.slots = own.num_slots = 1;
    if (p.cudnn) {
      SplitHeads(device, k, tokens, own.k, qkv.stride, rows, heads, d);
      SplitHeads(device, v, tokens, own.v, qkv.stride, rows, heads, d);
      clear_tail(rows, row_capacity);
      own.token_stride = d;
      own.head_stride = tokens * d;
      own.k = k;
      own.v = v;
    }
    for (Slice& slice : p.slices) {
      if (slice.first > 0) {
        own.keys = slice.first;
        p.Add(slice, own, false);
      }
      DenseAttention square = own;
      square.k += slice.first * own.token_stride;
      square.v += slice.first * own.token_stride;
      square.keys = slice.rows;
      square.first_key += slice.first;
      p.Add(slice, square, true);
    }
  }
  for (int64_t first = skipped; first < held_tokens; first += segment) {
    DenseAttention keys = {};
    keys.k = k;
    keys.v = v;
    keys.token_stride = d;
    keys.head_stride = tokens * d;
    keys.keys = std::min(segment, held_tokens - first);
    keys.first_key = first;
    keys.slots = kv.slots;
    keys.first_slot = kv.first_slot;
    keys.num_slots = kv.num_slots;
    GatherPages(device, k, v, GatherLayout::Contiguous(tokens, d), kv, kv.split ? span.split_table : span.table, first,
                keys.keys);
    clear_tail(keys.keys, keys.keys + kLeastKeys);
    for (Slice& slice : p.slices) p.Add(slice, keys, false);
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
