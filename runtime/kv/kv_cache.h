// KvCache: one rank's device memory for keys and values, and the tables that say which pages a sequence owns.
//
// Retrieval heads: a page id names kPageTokens consecutive tokens of a sequence, in every layer and whole head of this
// rank; a split page id names `slots` consecutive pages of the split heads, of which this rank stores its own slots.
// Streaming heads: a ring number names one ring of S + R + 1 tokens, and KvSizes::ring_slack more, in every layer and
// streaming head of this rank.
// Who owns which id is decided by rank 0 alone (page_pool.h); this class only holds the bytes.
//
// Made at start, allocates nothing later. Not thread-safe; used by the worker.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "attn_patterns/head_plan.h"
#include "kernels/attention.h"
#include "kernels/base/buffer.h"
#include "kernels/decode_lists.h"
#include "parallel/shard.h"
#include "runtime/weights/config.h"

namespace duo {

struct KvSizes {
  KvFormat format = KvFormat::kBF16;
  int64_t pages = 0;        // whole-head page ids
  int64_t split_pages = 0;  // split-head page ids
  int slots = 1;            // pages per split page id
  int rings = 0;            // ring sets
  int tables = 0;           // sequences that can be in a step's reach at once
  int64_t table_pages = 0;  // pages of the longest sequence
  int ring_slack = 0;       // tokens at the end of a sequence that may be taken back without its rings being rebuilt
  int lists = 0;            // sequences that have page lists at once (kernels/decode_lists.h)
};

constexpr int kDenseLayers = 2;  // the first ones, which have no page lists

// What one layer of this rank holds. `paged`: the pieces of split heads first, then the whole heads, if any.
struct LayerKv {
  std::vector<PagedKv> paged;
  RingKv ring;        // num_heads may be 0
  DecodeLists lists;  // of the whole heads
  HeadShape shape;
};

// Bytes of one page id, one split page id and one ring set on this rank.
struct KvUnitBytes {
  int64_t page = 0;
  int64_t split_page = 0;
  int64_t ring = 0;
};
KvUnitBytes UnitBytes(const ModelConfig& config, const RankShard& shard, const HeadPlan& heads, KvFormat format,
                      int ring_slack = 0);

// Bytes of the page lists on this rank.
int64_t ListBytes(const RankShard& shard, const KvSizes& sizes);

class KvCache {
 public:
  static absl::StatusOr<KvCache> Create(Device& device, const ModelConfig& config, const RankShard& shard,
                                        const HeadPlan& heads, const KvSizes& sizes);

  const std::vector<LayerKv>& layers() const { return layers_; }
  const KvSizes& sizes() const { return sizes_; }
  int64_t bytes() const {
    return pages_.size() + split_pages_.size() + rings_.size() + tables_.size() + split_tables_.size() +
           list_pages_.size() + list_heads_.size();
  }

  // Entries [first, first + ids.size()) of a sequence's table.
  void WriteTable(Device& device, bool split, int table, int first, const int32_t* ids, int count);
  void CopyPages(Device& device, bool split, int32_t from_id, int32_t to_id);
  void CopyRings(Device& device, int32_t from_ring, int32_t to_ring);

  // A ring set's bytes, all layers and heads of this rank, for checkpoints: [ring_bytes()].
  int64_t ring_bytes() const { return ring_stride_; }
  uint8_t* ring_data(int ring) const { return rings_.as<uint8_t>() + ring * ring_stride_; }

 private:
  absl::Status Allocate(Device& device, const RankShard& shard, const KvUnitBytes& unit);

  KvSizes sizes_;
  std::vector<LayerKv> layers_;
  Buffer pages_, split_pages_, rings_, tables_, split_tables_, list_pages_, list_heads_;
  int64_t ring_stride_ = 0;
};

}  // namespace duo
