// How decode attention is dealt out to blocks, computed on the device from the spans: nothing depends on host values
// that a captured graph would freeze.
//
// An item is (sequence, KV head, block of query columns); its work is measured in units of kUnit tokens of the pages
// held here. All items' units, laid end to end, are cut into equal runs, one a block. A run that crosses items makes a
// partial for each; the partial of block b for item i has slot b + i, which no other (b, i) pair of this order has.
#pragma once

#include "kernels/attention.h"

namespace duo::cuda {

constexpr int kMaxSequences = 512;
constexpr int kMinUnitsPerBlock = 4;

struct SequenceWork {
  int64_t first_unit;  // of its items, in the order (head, column block, unit)
  int64_t units;       // of one item
  int32_t first_item;
  int32_t column_blocks;
  int64_t skipped;  // held pages before its window, in units
};

struct DecodePlan {
  SequenceWork work[kMaxSequences];
  int64_t total_units;
  int32_t blocks;  // those with work; never more than units

  __device__ int64_t Begin(int64_t block) const { return total_units * block / blocks; }
  // The block whose run has unit u.
  __device__ int BlockOf(int64_t u) const { return static_cast<int>(((u + 1) * blocks - 1) / total_units); }
};

// Called by all threads of a block; `plan` is in shared memory. Ends with a barrier.
__device__ inline void MakePlan(DecodePlan& plan, const SeqBatch& batch, const PagedKv& kv, int group, int columns,
                                int unit, int grid) {
  for (int s = threadIdx.x; s < batch.num_seqs; s += blockDim.x) {
    const SeqSpan span = batch.spans[s];
    SequenceWork w = {};
    if (span.num_rows > 0) {
      const int64_t tokens = int64_t{span.history} + span.num_rows;
      const int64_t pages = (tokens + kPageTokens - 1) / kPageTokens;
      const int per_page = kPageTokens / unit;
      int64_t first_page = 0;
      if (kv.window > 0 && span.history + 1 > kv.window) first_page = (span.history + 1 - kv.window) / kPageTokens;
      const int64_t held = kv.held_count(pages), skipped = kv.held_count(first_page);
      w.units = (held - skipped) * per_page;
      if (held > skipped && kv.held(held - 1) == pages - 1) {
        const int in_last = static_cast<int>(tokens - (pages - 1) * kPageTokens);
        w.units += (in_last + unit - 1) / unit - per_page;
      }
      w.skipped = skipped * per_page;
      w.column_blocks = (span.num_rows * group + columns - 1) / columns;
    }
    plan.work[s] = w;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int64_t units = 0;
    int32_t items = 0;
    for (int s = 0; s < batch.num_seqs; ++s) {
      plan.work[s].first_unit = units;
      plan.work[s].first_item = items;
      const int mine = kv.num_heads * plan.work[s].column_blocks;
      units += mine * plan.work[s].units;
      items += mine;
    }
    plan.total_units = units;
    const int64_t wanted = (units + kMinUnitsPerBlock - 1) / kMinUnitsPerBlock;
    plan.blocks = static_cast<int>(wanted < grid ? wanted : grid);
  }
  __syncthreads();
}

}  // namespace duo::cuda
