// duo's own flash attention (mma.sync, bf16): the fallback of prefill attention where cuDNN is absent, cannot do a
// shape or a window is set, and the only kernel of streaming heads' prefill, whose keys are the sinks and a band.
#pragma once

#include "kernels/attention.h"
#include "kernels/backward.h"

namespace duo::cuda {

// Attention of a block of rows over keys that lie in plain memory, some KV heads at a time.
struct DenseAttention {
  const bf16* q;  // row i of query head h at q + h * q_head_stride + i * q_stride
  int64_t q_stride;
  int64_t q_head_stride;
  bf16* out;  // likewise
  int64_t out_stride;
  int64_t out_head_stride;
  float* lse;  // [heads * group][lse_stride] or null
  int64_t lse_stride;
  // Keys cut into `splits` runs, each with a result of its own: run s at out + s * out_split_stride, lse likewise.
  int splits;
  int64_t out_split_stride, lse_split_stride;
  const bf16* k;  // key j of head h at k + h * head_stride + j * token_stride
  const bf16* v;  // likewise
  int64_t token_stride;
  int64_t head_stride;
  int rows;
  int64_t keys;
  int heads;  // KV heads
  int group;
  int head_dim;
  // Row i has position first_position + i. Key j has position j + first_key, or, gathered from the pages that a holder
  // of a split head stores, the position of token j of those pages from the first_key-th on. A row sees keys up to its
  // own position, and with a window W only those nearer than W.
  int64_t first_position;
  int64_t first_key;
  int slots, first_slot, num_slots;
  int window;
  ChunkPart part;  // of these keys, those of one kind
};

void FlashDense(Device& device, const DenseAttention& args);

// Streaming heads of every sequence of the batch, rows in blocks: AttendStreaming for many rows.
void FlashStreaming(Device& device, const Partial& to, const StepRows& step, const RingKv& kv);

// Streaming heads of one whole sequence: AttendWindow.
void FlashWindow(Device& device, const Partial& to, const WindowRows& window);

}  // namespace duo::cuda
