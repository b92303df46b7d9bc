// Shard: which slice of which weight a rank keeps. A shard follows from the partition and the model's sizes alone; a
// rank reads only these slices from the files.
//
// A rank's KV heads stand in one order everywhere (projection rows, qkv columns, o_proj columns): pieces of split
// heads, whole heads, streaming heads. Query heads follow their KV head. Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/partition.h"

namespace duo {

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

enum class HeadKind { kSplit, kWhole, kStreaming };

struct LocalHead {
  int kv_head = 0;  // in the model's order
  HeadKind kind = HeadKind::kWhole;
  int first_slot = 0, last_slot = 1, slots = 1;  // kSplit: slots [first_slot, last_slot) of `slots`
  // False for the second and later copies that `contiguous` makes with more ranks than KV heads: their o_proj columns
  // count as zero, so that the all-reduce adds the head once.
  bool adds_output = true;
};

struct RankShard {
  int rank = 0;
  std::vector<std::vector<LocalHead>> layers;  // [layer]: the rank's KV heads in their order; may be empty
  Range ffn;                                   // rows of gate and up, columns of down
  Range vocab;                                 // rows of the vocabulary head
  Range experts;                               // those that it has a part of, or all of
  Range expert;                                // the same as ffn, of each expert; all of it where experts are whole
  Range shared_expert;                         // and of the expert for all tokens
  bool whole_experts = false;
};

// Experts that are split are cut, each like a feed-forward layer, at multiples of these.
struct ExpertGranularity {
  int64_t expert = 1, shared = 1;
};

// Rows of q_proj (and columns of o_proj), and rows of k_proj and v_proj, that belong to a KV head.
Range QueryRows(const ModelShape& shape, int kv_head);
Range KvRows(const ModelShape& shape, int kv_head);

// [0, total) cut into consecutive ranges in proportion to `shares` [world], at multiples of `granularity` (the end
// aside). A range may be empty when there are fewer units than ranks.
Range ProportionalRange(int64_t total, const std::vector<double>& shares, int rank, int64_t granularity);

// The largest of 128, 64, .. 1 that keeps the longest of `world` equal ranges within 1 % of the mean; else the one that
// comes closest, the largest at a tie.
int64_t PreferredGranularity(int64_t total, int world);

RankShard MakeShard(const Partition& partition, const ModelShape& shape, int rank, int64_t ffn_granularity,
                    int64_t vocab_granularity, const ExpertGranularity& experts = {});

}  // namespace duo
