// A streaming head's row, by one block whose warps share the few hundred keys: of attn_streaming.cu and, beside pages,
// of attn_staged.cu and attn_check.cu. Every row of a step has a block of its own, for its keys begin where it begins
// to see: so it has the same bits in any company.
#pragma once

#include <climits>

#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/attention/decode_merge.cuh"
#include "kernels/cuda/attention/streaming_keys.cuh"

namespace duo::cuda {

struct StreamingArgs {
  const bf16* q;
  int64_t q_stride;
  bf16* out;
  int64_t out_stride;
  float* lse;  // [query heads][rows of the step] or null
  int group;
  float scale;  // 1 / sqrt(d) * log2 e
  StreamingKeys keys;
};

inline StreamingArgs StreamingArgsOf(const Partial& to, const StepRows& rows, const RingKv& kv) {
  const HeadShape& shape = rows.shape;
  const int64_t first = int64_t{kv.first_head} * shape.head_dim;
  StreamingArgs args = {};
  const View& queries = rows.part.q.data == nullptr ? rows.qkv : rows.part.q;
  args.q = queries.as<bf16>() + first * shape.group;
  args.q_stride = queries.stride;
  args.out = to.out.as<bf16>() + first * shape.group;
  args.out_stride = to.out.stride;
  args.lse = to.lse;
  args.group = shape.group;
  args.scale = kLog2e / sqrtf(static_cast<float>(shape.head_dim));
  args.keys = {
      rows.qkv.as<bf16>() + shape.q_cols() + first, shape.kv_cols(), rows.qkv.stride, rows.batch, kv, rows.part};
  return args;
}

// The keys that a block's row sees, in the order in which its warps take them: sinks, then the band. Where a key
// lies follows from what is worked out once: a remainder and 64-bit sums for each took longer than its loads.
struct StreamingWalk {
  int first_sink, in_sinks, first_in_band, total;
  int history, sink, period, slot;  // of the band's first key, behind the sinks'
  int64_t own_stride;

  __device__ __forceinline__ StreamingWalk(const StreamingKeys& keys, const StreamingKeys::Block& block, int64_t row) {
    int64_t begin[2], end[2];
    keys.Ranges(block, row, row, begin, end);
    first_sink = static_cast<int>(begin[0]), first_in_band = static_cast<int>(begin[1]);
    in_sinks = static_cast<int>(end[0] - begin[0]);
    total = in_sinks + static_cast<int>(end[1] - begin[1]);
    history = static_cast<int>(block.history);
    sink = keys.kv.sink;
    period = keys.kv.recent + 1 + keys.kv.slack;
    slot = static_cast<int>(static_cast<uint32_t>(first_in_band - sink) % static_cast<uint32_t>(period));
    own_stride = keys.qkv_stride;
  }
  __device__ __forceinline__ int Position(int i) const {
    return i < in_sinks ? first_sink + i : first_in_band + (i - in_sinks);
  }
  // Of key i, from the first slot of the ring's keys, or values, and the step's own first one. Those of the band that
  // lie in the ring are fewer than it has slots.
  template <int kHeadDim>
  __device__ __forceinline__ const bf16* At(int i, const bf16* ring, const bf16* own) const {
    const int position = Position(i), in_band = slot + (i - in_sinks);
    const int at = i < in_sinks ? position : sink + (in_band >= period ? in_band - period : in_band);
    const bf16* in_ring = ring + int64_t{at} * kHeadDim;
    const bf16* in_step = own + (position - history) * own_stride;
    return position >= history ? in_step : in_ring;
  }
};

// Which keys a row sees, as StreamingKeys::Sees has it.
struct StreamingSight {
  int row, from, to;  // and keys of its kind alone

  __device__ __forceinline__ StreamingSight(const StreamingKeys& keys, int row) : row(row), from(0), to(row + 1) {
    if (keys.kv.window > 0) from = max(0, row - keys.kv.window + 1);
    if (keys.part.all()) return;
    const KeyRange kind = keys.part.Keys(row);
    from = static_cast<int>(max(int64_t{from}, kind.begin));
    to = static_cast<int>(min(int64_t{to}, kind.end));
  }
  // ring_from: the first position that a ring holds, or the step has, whichever comes first.
  __device__ __forceinline__ bool Sees(int key, int sink, int recent, int ring_from) const {
    return key >= from && key < to && (key < sink || (row - key <= recent && key >= ring_from));
  }
};

// Warps of a block that attend to a streaming head's row, whatever else the block does: a row's bits follow from them.
constexpr int kStreamingWarps = 8;

// A sequence's row `row`, of whose query heads those from `first` on, eight times kN of them. shared: MergeSharedBytes.
// The warps that `together` syncs call it. waits: nothing has waited yet for the kernels before this one. The ring does
// not depend on them, so that a warp's first keys and values are fetched meanwhile, unless some are the step's own.
template <int kHeadDim, int kN, typename Together>
__device__ __forceinline__ void AttendStreamingHead(const StreamingArgs& args, int head, int seq, int row, int first,
                                                    float* shared, bool waits, const Together& together) {
  constexpr int kWarps = kStreamingWarps;
  constexpr KvFormat kFormat = KvFormat::kBF16;
  const StreamingKeys& keys = args.keys;
  const SeqSpan span = keys.batch.spans[seq];
  const int columns = args.group - first;
  if (row >= span.num_rows || columns <= 0) {
    if (waits) WaitForDependency();
    return;
  }
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const auto block = keys.Make(head, seq);
  const StreamingWalk walk(keys, block, span.history + row);
  const int total = walk.total, ring_from = static_cast<int>(min(block.ring_begin, block.history));
  auto key_at = [&](int i) { return walk.At<kHeadDim>(i, block.ring_k, block.own_k); };
  auto value_at = [&](int i) { return walk.At<kHeadDim>(i, block.ring_v, block.own_v); };
  const StreamingSight sight(keys, span.history + row);

  WarpAttention<kFormat, kHeadDim, kN> warp;
  warp.Reset();
  uint2 q_fragments[kN][kHeadDim / 16];
  auto q_at = [&](int col) -> const bf16* {
    if (col >= columns) return nullptr;
    return args.q + (span.first_row + row) * args.q_stride + (int64_t{head} * args.group + first + col) * kHeadDim;
  };
  RawTile<kFormat, kHeadDim, 1> raw;
  auto load_k = [&](int tile) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bf16* key = key_at(min(tile + TokenOfRow(g + 8 * h), total - 1));
      raw.LoadOneK(reinterpret_cast<const uint8_t*>(key), 0, h, c);
    }
  };
  auto load_v = [&](int tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bf16* value = value_at(min(tile + c + 4 * i, total - 1));  // TokenOfRow of columns 2 c, 2 c + 1, + 8, + 9
      raw.LoadOneV(reinterpret_cast<const uint8_t*>(value), 0, i, g);
    }
  };
  const bool own = walk.Position(min(w * 16 + 15, total - 1)) >= span.history;
  if (waits && own) WaitForDependency();
  if (waits && (w + kWarps) * 16 < total) {  // its second ones come as far as the L2: registers hold one tile
    const int i = min((w + kWarps) * 16 + lane % 16, total - 1);
    const bf16* vector = lane < 16 ? key_at(i) : value_at(i);
#pragma unroll
    for (int at = 0; at < kHeadDim; at += 64) asm volatile("prefetch.global.L2 [%0];" ::"l"(vector + at));
  }
  if (w * 16 < total) load_k(w * 16), load_v(w * 16);
  if (waits && !own) WaitForDependency();
  LoadQ<kFormat, kHeadDim, kN>(
      q_at, [&](int n, int step, uint2 f) { q_fragments[n][step] = f; }, warp.q_sum, args.scale, lane);
  for (int tile = w * 16; tile < total; tile += kWarps * 16) {
    float s[1][kN][4];
    const uint32_t none[2] = {};
    warp.Scores(s[0], raw.k[0], [&](int n, int step) { return q_fragments[n][step]; });
    const int next = tile + kWarps * 16;
    if (next < total) load_k(next);
    warp.Scale(s[0], none, args.scale);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int index = tile + TokenOfRow(g + 8 * h);
      const int key = index < total ? walk.Position(index) : INT_MAX;
      if (sight.Sees(key, keys.kv.sink, keys.kv.recent, ring_from)) continue;
#pragma unroll
      for (int n = 0; n < kN; ++n) s[0][n][2 * h] = s[0][n][2 * h + 1] = -INFINITY;
    }
    warp.Raise(s);
    uint32_t p[kN][2];
    warp.Probabilities(p, s[0], none);
    warp.Values(p, raw.v[0]);
    if (next < total) load_v(next);
  }
  MergeWarps<kWarps>(
      warp, shared,
      [&](int col, int channel, float x) {
        if (col >= columns) return;
        args.out[(span.first_row + row) * args.out_stride + (int64_t{head} * args.group + first + col) * kHeadDim +
                 channel] = ToBf16(x);
      },
      [&](int col, float lse) {
        if (args.lse == nullptr || col >= columns) return;
        args.lse[(int64_t{head} * args.group + first + col) * keys.batch.num_rows + span.first_row + row] = lse;
      },
      together);
}

// The same warps' StoreRings of one head, of one sequence, whose rows they alone attend: once all have read the ring.
template <int kHeadDim>
__device__ __forceinline__ void StoreRingOfHead(const StreamingKeys& keys, int head, int seq) {
  constexpr int kWarps = kStreamingWarps;
  const SeqSpan span = keys.batch.spans[seq];
  const RingKv& kv = keys.kv;
  const int lane = threadIdx.x % 32, end = span.history + span.num_rows;
  for (int r = threadIdx.x / 32; r < span.num_rows; r += kWarps) {
    const int position = span.history + r;
    if (position >= kv.sink && position < end - (kv.slots() - kv.sink)) continue;
    const bf16* k = keys.k + (span.first_row + r) * keys.qkv_stride + int64_t{head} * kHeadDim;
    const int slot = kv.slot_of(position);
    uint32_t* k_to = reinterpret_cast<uint32_t*>(kv.k_at(span.ring, head, slot));
    uint32_t* v_to = reinterpret_cast<uint32_t*>(kv.v_at(span.ring, head, slot));
#pragma unroll
    for (int i = lane; i < kHeadDim / 2; i += 32) {
      k_to[i] = reinterpret_cast<const uint32_t*>(k)[i];
      v_to[i] = reinterpret_cast<const uint32_t*>(k + keys.v_offset)[i];
    }
  }
}

// Streaming heads of the rows of a batch's only sequence, one (row, head) a block, in turn: `block` of `blocks`. The
// first kStreamingWarps warps of a block call it. A row's stores leave the others what they read (StoresBeside), so
// that the first row's block stores its head's ring.
template <int kHeadDim>
__device__ __forceinline__ void AttendStreamingRows(const StreamingArgs& args, int block, int blocks, float* shared,
                                                    bool waits) {
  const int heads = args.keys.kv.num_heads, all = heads * args.keys.batch.num_rows;
  for (int i = block; i < all; i += blocks) {
    const int head = i % heads, row = i / heads;
    AttendStreamingHead<kHeadDim, 1>(args, head, 0, row, 0, shared, waits, FirstWarps<kStreamingWarps>());
    waits = false;
    if (row == 0) StoreRingOfHead<kHeadDim>(args.keys, head, 0);
  }
}
inline bool StoresBeside(const SeqBatch& batch, const RingKv& kv) { return kv.slack >= batch.num_rows - 1; }

}  // namespace duo::cuda
