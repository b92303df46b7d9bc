// Which keys a streaming head's row sees and where they lie: sinks and a band, from the rings as they were before the
// step and from the step's own rows in qkv. Used by the many-row kernel (flash.cu) and the few-row one.
#pragma once

#include "kernels/attention.h"

namespace duo::cuda {

// Does a row at this position see a key of that part?
__device__ __forceinline__ bool SeenOfPart(const ChunkPart& part, int64_t position, int64_t key) {
  if (part.all()) return true;
  const KeyRange kind = part.Keys(position);
  return key >= kind.begin && key < kind.end;
}
// Do all rows at [low, high] see all keys [first, last] of it? The ranges of later rows begin and end later.
__device__ __forceinline__ bool SeenByAllOfPart(const ChunkPart& part, int64_t first, int64_t last, int64_t low,
                                                int64_t high) {
  return part.all() || (first >= part.Keys(high).begin && last < part.Keys(low).end);
}

// A streaming head: rings for the tokens before this step, the step's own rows after; j is a position.
struct StreamingKeys {
  const bf16* k;  // column of the first head's K in qkv; V is v_offset further
  int64_t v_offset, qkv_stride;
  SeqBatch batch;
  RingKv kv;
  ChunkPart part;

  struct Block {
    const bf16 *ring_k, *ring_v, *own_k, *own_v;
    int64_t history, ring_begin;
  };
  __device__ Block Make(int head, int seq) const {
    const SeqSpan span = batch.spans[seq];
    const bf16* own = k + span.first_row * qkv_stride + int64_t{head} * kv.head_dim;
    return {reinterpret_cast<const bf16*>(kv.k_at(span.ring, head, 0)),
            reinterpret_cast<const bf16*>(kv.v_at(span.ring, head, 0)),
            own,
            own + v_offset,
            span.history,
            span.ring_begin};
  }
  // RingKv::slot_of in 32-bit arithmetic: positions are int32.
  __device__ int64_t Slot(int64_t j) const {
    const uint32_t p = static_cast<uint32_t>(j), sink = kv.sink;
    return p < sink ? p : sink + (p - sink) % static_cast<uint32_t>(kv.recent + 1 + kv.slack);
  }
  __device__ const bf16* K(const Block& b, int64_t j) const {
    return j >= b.history ? b.own_k + (j - b.history) * qkv_stride : b.ring_k + Slot(j) * kv.head_dim;
  }
  __device__ const bf16* V(const Block& b, int64_t j) const {
    return j >= b.history ? b.own_v + (j - b.history) * qkv_stride : b.ring_v + Slot(j) * kv.head_dim;
  }
  __device__ void Ranges(const Block& b, int64_t low, int64_t high, int64_t (&begin)[2], int64_t (&end)[2]) const {
    begin[0] = kv.window > 0 ? max(int64_t{0}, low - kv.window + 1) : 0;
    end[0] = min(int64_t{kv.sink}, high + 1);
    begin[0] = min(begin[0], end[0]);
    // What a ring being rebuilt does not hold yet is not even read: a masked weight of 0 times it might be NaN.
    begin[1] = max(max(int64_t{kv.sink}, low - kv.recent), min(b.ring_begin, b.history));
    if (kv.window > 0) begin[1] = max(begin[1], low - kv.window + 1);
    end[1] = max(high + 1, begin[1]);
  }
  __device__ bool SeenByAll(const Block& b, int64_t first, int64_t last, int64_t low, int64_t high) const {
    if (last > low || (kv.window > 0 && high - first >= kv.window)) return false;
    if (!SeenByAllOfPart(part, first, last, low, high)) return false;
    if (last < kv.sink) return true;
    return first >= kv.sink && high - first <= kv.recent && (first >= b.history || first >= b.ring_begin);
  }
  __device__ bool Sees(const Block& b, int64_t position, int64_t j) const {
    if (j > position || (kv.window > 0 && position - j >= kv.window)) return false;
    if (!SeenOfPart(part, position, j)) return false;
    if (j < kv.sink) return true;
    return position - j <= kv.recent && (j >= b.history || j >= b.ring_begin);
  }
};

}  // namespace duo::cuda
