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
#include "kernels/cuda/attention/prefill_merge.cuh"
#include "kernels/cuda/attention/prefill_shapes.h"
#include "kernels/cuda/hopper/prefill_hopper.h"
#include "kernels/cuda/kv/kv_gather.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// Runs that the flash kernel cuts keys into, so that few rows still fill the GPU.
int Splits(const Device& device, int64_t rows, int64_t q_heads) {
  const int64_t blocks = CeilDiv(rows, kTileRows) * q_heads;
  return static_cast<int>(std::max<int64_t>(1, device.info().multiprocessors / blocks));
}
// Rows x query heads of partial results: a slice's, or those of all its splits.
int64_t PartRows(const Device& device, int64_t capacity, int64_t q_heads) {
  return std::max(capacity * q_heads, device.info().multiprocessors * kTileRows);
}

// The tokens before a step that are stored here and that some row sees: [first, end) of the tokens of the pages held
// here, gathered `segment` at a time.
struct HeldHistory {
  int64_t first = 0, end = 0, segment = 0;

  HeldHistory(const SeqSpan& span, const PagedKv& kv, const ChunkPart& part, int64_t max_tokens)
      : segment(SegmentTokens(max_tokens)) {
    int64_t limit = span.history;
    if (!part.all()) limit = std::min(limit, part.Keys(int64_t{span.history} + span.num_rows - 1).end);
    const int64_t full_pages = limit / kPageTokens, in_last = limit % kPageTokens;
    end = kv.held_count(full_pages) * kPageTokens;
    if (in_last > 0 && kv.holds(full_pages)) end += in_last;
    if (kv.window > 0 && span.history + 1 > kv.window) {
      first = kv.held_count((span.history + 1 - kv.window) / kPageTokens) * kPageTokens;
    }
    if (!part.all()) first = std::max(first, kv.held_count(part.Keys(span.history).begin / kPageTokens) * kPageTokens);
  }
  int64_t segments() const { return end > first ? CeilDiv(end - first, segment) : 0; }
};

// Keys and values of some KV heads, each [head][capacity][head_dim].
struct HeadKeys {
  bf16* k = nullptr;
  bf16* v = nullptr;
  int64_t capacity = 0;  // tokens
};

// One layer's prefill in the making: Cut, Take, then the partials of the step's own keys and of the history.
struct Prefill {
  Device& device;
  DenseAttention args;  // q of the step in qkv
  View out;
  float* lse = nullptr;
  bool cudnn = false;
  std::vector<Slice> slices;
  int64_t key_capacity = 0;  // of history
  bf16* q = nullptr;         // with cuDNN: slices one after the other, each [query head][capacity][head_dim]
  HeadKeys keys;             // the step's own with cuDNN; then each segment of history
  bf16* part = nullptr;
  float* part_lse = nullptr;
  float* sum = nullptr;
  float* sum_lse = nullptr;

  int q_heads() const { return args.heads * args.group; }

  // Rows into slices, each with the number of partials that it is the sum of.
  void Cut(int64_t segments, bool own_square, int64_t max_tokens) {
    cudnn = args.window == 0 && args.part.all() && args.rows >= kLeastRows && CudnnUsable(device);
    slices = cudnn ? CutRows(args.rows) : std::vector<Slice>{{0, args.rows, args.rows}};
    key_capacity = KeyCapacity(max_tokens);
    for (Slice& slice : slices) slice.partials = segments + (own_square ? 1 + (slice.first > 0) : 0);
  }

  // Scratch, as PrefillScratchBytes counts it, and with cuDNN the queries by head.
  void Take(Arena& scratch, int64_t max_tokens) {
    const int64_t d = args.head_dim, rows = args.rows, heads = q_heads();
    int64_t most = 0;
    for (const Slice& slice : slices) most = std::max(most, slice.capacity);
    const auto take = [&](int64_t elements, size_t size) { return scratch.Take(elements * size); };
    keys.capacity = KeyTokens(rows, max_tokens, cudnn);
    keys.k = static_cast<bf16*>(take(args.heads * keys.capacity * d, sizeof(bf16)));
    keys.v = static_cast<bf16*>(take(args.heads * keys.capacity * d, sizeof(bf16)));
    part = static_cast<bf16*>(take(PartRows(device, most, heads) * d, sizeof(bf16)));
    part_lse = static_cast<float*>(take(PartRows(device, most, heads), sizeof(float)));
    sum = static_cast<float*>(take(rows * heads * d, sizeof(float)));
    sum_lse = static_cast<float*>(take(rows * heads, sizeof(float)));
    if (!cudnn) return;
    q = static_cast<bf16*>(take(row_capacity() * heads * d, sizeof(bf16)));
    const View step(const_cast<bf16*>(args.q), DType::kBF16, rows, heads * d, args.q_stride);
    for (const Slice& slice : slices) {
      SplitHeads(device, q + slice.first * heads * d, slice.capacity, step.Rows(slice.first, slice.rows),
                 args.head_dim);
    }
  }

  // `own`: the step's keys in qkv. A slice sees those before it as a rectangle, its own as a causal square.
  void AddOwn(DenseAttention own) {
    if (cudnn) {
      const int64_t d = args.head_dim, cols = args.heads * d;
      const auto in_qkv = [&](const bf16* x) {
        return View(const_cast<bf16*>(x), DType::kBF16, args.rows, cols, own.token_stride);
      };
      SplitHeads(device, keys.k, keys.capacity, in_qkv(own.k), args.head_dim);
      SplitHeads(device, keys.v, keys.capacity, in_qkv(own.v), args.head_dim);
      ClearTail(args.rows, row_capacity());
      own = InScratch(own);
    }
    for (Slice& slice : slices) {
      if (slice.first > 0) {
        own.keys = slice.first;
        Add(slice, own, false);
      }
      DenseAttention square = own;
      square.k += slice.first * own.token_stride;
      square.v += slice.first * own.token_stride;
      square.keys = slice.rows;
      square.first_key += slice.first;
      Add(slice, square, true);
    }
  }

  void AddHistory(const HeldHistory& history, const PagedKv& kv, int table) {
    DenseAttention segment = {};
    segment.slots = kv.slots;
    segment.first_slot = kv.first_slot;
    segment.num_slots = kv.num_slots;
    for (int64_t first = history.first; first < history.end; first += history.segment) {
      segment.keys = std::min(history.segment, history.end - first);
      segment.first_key = first;
      GatherPages(device, keys.k, keys.v, GatherLayout::Contiguous(keys.capacity, args.head_dim), kv, table, first,
                  segment.keys);
      ClearTail(segment.keys, segment.keys + kLeastKeys);
      for (Slice& slice : slices) Add(slice, InScratch(segment), false);
    }
  }

 private:
  int64_t row_capacity() const { return slices.back().first + slices.back().capacity; }

  DenseAttention InScratch(DenseAttention x) const {
    x.k = keys.k;
    x.v = keys.v;
    x.token_stride = args.head_dim;
    x.head_stride = keys.capacity * args.head_dim;
    return x;
  }

  // Zeros behind the first `count` keys, up to `end`: the weight of a key past the last one is 0, and 0 times its V
  // must be 0.
  void ClearTail(int64_t count, int64_t end) {
    const int64_t tail = std::min(keys.capacity, end) - count, bytes = args.head_dim * sizeof(bf16);
    if (!cudnn || tail <= 0) return;
    for (bf16* x : {keys.k, keys.v}) {
      DUO_CUDA_CHECK(cudaMemset2DAsync(x + count * args.head_dim, keys.capacity * bytes, 0, tail * bytes, args.heads,
                                       Stream(device)));
    }
  }

  // The partial of the slice's rows over some keys in memory; `x` says where and which.
  void Add(Slice& slice, DenseAttention x, bool causal) {
    const int q_heads = this->q_heads(), d = args.head_dim;
    x.heads = args.heads;
    x.group = args.group;
    x.head_dim = d;
    x.rows = static_cast<int>(slice.rows);
    x.first_position = args.first_position + slice.first;
    x.window = args.window;
    x.part = args.part;
    x.out = part;
    x.lse = part_lse;
    x.lse_stride = slice.capacity;
    x.splits = cudnn ? 1 : Splits(device, slice.rows, q_heads);
    x.out_split_stride = slice.rows * q_heads * d;
    x.lse_split_stride = slice.capacity * q_heads;
    if (cudnn) {
      x.q = q + slice.first * q_heads * d;
      x.q_stride = x.out_stride = d;
      x.q_head_stride = x.out_head_stride = slice.capacity * d;
    } else {
      x.q = args.q + slice.first * args.q_stride;
      x.q_stride = args.q_stride;
      x.q_head_stride = x.out_head_stride = d;
      x.out_stride = int64_t{q_heads} * d;
    }
    Attend(slice, x, causal);
    Merge(slice, x.splits);
  }

  void Attend(const Slice& slice, const DenseAttention& x, bool causal) {
    if (!cudnn) return FlashDense(device, x);
    CudnnShape shape;
    shape.group = args.group;
    shape.head_dim = args.head_dim;
    shape.row_capacity = slice.capacity;
    shape.key_capacity = causal ? slice.capacity : std::max(key_capacity, PowerOfTwo(x.keys, kLeastKeys));
    shape.causal = causal;
    // A causal square hides the keys past the last row from all rows that count.
    shape.whole = causal || x.keys == shape.key_capacity;
    CudnnCalls calls(device, static_cast<int>(slice.capacity), static_cast<int>(x.keys), shape.whole);
    for (int head = 0; head < args.heads; head += shape.heads) {
      shape.heads = HeadsAtOnce(args.heads - head, args.group, slice.capacity);
      shape.key_head_stride = shape.heads == 1 ? 0 : x.head_stride / args.head_dim;
      DenseAttention some = x;
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
    const int q_heads = this->q_heads(), d = args.head_dim;
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

size_t PrefillScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens,
                           bool by_chunks) {
  size_t hopper = 0;
  if (HopperPrefillUsable(device, kv.page)) {
    hopper = HopperPrefillScratchBytes(device, rows, group, kv, max_tokens);
    if (!by_chunks) return hopper;
  }
  // As if by cuDNN, which needs most. A capacity of fewer rows is never larger, but for the padding.
  const int64_t d = kv.page.head_dim, heads = kv.num_heads, cols = heads * group * d;
  const int64_t capacity = RowCapacity(rows);
  return std::max(hopper, 2 * Arena::Rounded(heads * KeyTokens(rows, max_tokens, true) * d * sizeof(bf16)) +  // K, V
                              Arena::Rounded(capacity * cols * sizeof(bf16)) +                                // q
                              Arena::Rounded(PartRows(device, capacity, heads * group) * d * sizeof(bf16)) +  // partial
                              Arena::Rounded(PartRows(device, capacity, heads * group) * sizeof(float)) +     // its lse
                              Arena::Rounded(rows * cols * sizeof(float)) +           // their sum
                              Arena::Rounded(rows * heads * group * sizeof(float)));  // its lse
}

void AttendPrefill(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, bool own_square,
                   Arena& scratch) {
  const View& qkv = rows.qkv;
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  if (rows.part.all() && HopperPrefillUsable(device, kv.page)) {
    return HopperPrefill(device, to.out, to.lse, qkv, shape, batch, kv, own_square, scratch);
  }
  const SeqSpan& span = batch.host_spans[0];
  const int num_rows = span.num_rows, d = shape.head_dim, q_cols = kv.num_heads * shape.group * d;
  const int64_t first_column = int64_t{kv.first_head} * d;
  const bf16* first_row = qkv.as<bf16>() + span.first_row * qkv.stride;
  const HeldHistory history(span, kv, rows.part, batch.max_tokens);

  Prefill p = {device};
  p.out = to.out.Rows(span.first_row, num_rows).Cols(first_column * shape.group, q_cols);
  p.lse = to.lse;
  const View& queries = rows.part.q.data == nullptr ? qkv : rows.part.q;
  p.args.q = queries.as<bf16>() + span.first_row * queries.stride + first_column * shape.group;
  p.args.q_stride = queries.stride;
  p.args.part = rows.part;
  p.args.rows = num_rows;
  p.args.heads = kv.num_heads;
  p.args.group = shape.group;
  p.args.head_dim = d;
  p.args.first_position = span.history;
  p.args.window = kv.window;
  if (history.segments() == 0 && !own_square) {
    EmptyKernel<<<CeilDiv(int64_t{num_rows} * q_cols, 256), 256, 0, Stream(device)>>>(
        p.out.as<bf16>(), p.out.stride, to.lse, num_rows, q_cols, p.q_heads());
    DUO_CUDA_CHECK(cudaGetLastError());
    return;
  }
  const size_t mark = scratch.used();
  p.Cut(history.segments(), own_square, batch.max_tokens);
  p.Take(scratch, batch.max_tokens);
  if (own_square) {
    DenseAttention own = {};
    own.k = first_row + shape.q_cols() + first_column;
    own.v = own.k + shape.kv_cols();
    own.token_stride = qkv.stride;
    own.head_stride = d;
    own.keys = num_rows;
    own.first_key = span.history;
    own.slots = own.num_slots = 1;
    p.AddOwn(own);
  }
  p.AddHistory(history, kv, kv.split ? span.split_table : span.table);
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
