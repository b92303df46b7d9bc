// Sequence: rank 0's record of one run of tokens in the KV cache (a session, or the fork that a question runs on), and
// SequencePool, which hands out what a sequence is made of: pages, a table, a ring set. The cache updates that follow
// (table entries, page and ring copies) are written into the next StepPlan. Not thread-safe; owned by the scheduler.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/math.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/kv/page_pool.h"
#include "runtime/model/step_plan.h"
#include "runtime/scheduler/sparse_read.h"

namespace duo {

struct Sequence {
  // Of a session: those whose K and V are in the pages. Of a question's fork: the question's own only.
  std::vector<int32_t> tokens;
  int64_t length = 0;  // tokens whose K and V are in the pages
  // Rings hold the positions up to here; less than length after a rewind, until they are rebuilt by re-feeding.
  int64_t rings_at = 0;
  int64_t ring_begin = 0;  // first position that a rebuilding began with
  std::vector<int32_t> pages, split_pages;
  int64_t reserved = 0, split_reserved = 0;  // page ids promised to it and not yet taken
  int32_t table = -1, ring = -1;
  std::vector<uint32_t> chain;  // of tokens, as far as somebody looked (token_chain.h)
  SparseRead sparse;            // how its text was read, if not densely
};

class SequencePool {
 public:
  // sizes.rings counts one ring set that stays unused here (the worker's padding rows).
  SequencePool(const KvSizes& sizes, bool has_whole, bool has_split);

  // Page ids that `tokens` tokens need.
  int64_t PagesFor(int64_t tokens) const { return has_whole_ ? CeilDiv(tokens, kPageTokens) : 0; }
  int64_t SplitPagesFor(int64_t tokens) const {
    return has_split_ ? CeilDiv(tokens, int64_t{kPageTokens} * slots_) : 0;
  }
  // Pages that `tokens` tokens fill: those that a fork shares.
  int64_t FullPages(int64_t tokens) const { return has_whole_ ? tokens / kPageTokens : 0; }
  int64_t FullSplitPages(int64_t tokens) const { return has_split_ ? tokens / (int64_t{kPageTokens} * slots_) : 0; }
  int64_t table_tokens() const { return table_tokens_; }  // a sequence's length at most
  bool HasSlot() const { return !tables_.empty() && !rings_.empty(); }

  // An empty sequence with room for `room` tokens. RESOURCE_EXHAUSTED with the numbers when there is no table or ring
  // set left, or fewer pages are available.
  absl::Status Open(int64_t room, Sequence* sequence);
  // A fork of the parent's first `at` tokens with room for `room` (at least these): shares full pages, copies the last
  // one if it is partly filled, and the rings, which are those of `at` tokens only where the parent has no more.
  absl::Status Fork(const Sequence& parent, int64_t at, int64_t room, Sequence* fork, StepPlan* plan);
  void Close(Sequence* sequence);
  // Promises the sequence what it needs to hold `room` tokens (at least its length), no more and no less.
  // RESOURCE_EXHAUSTED, and nothing changes, when fewer pages are available.
  absl::Status SetRoom(Sequence* sequence, int64_t room);
  // Takes the pages that tokens up to `length` need out of the sequence's reservation.
  void Grow(Sequence* sequence, int64_t length, StepPlan* plan);
  // Takes the pages beyond its length into its reservation again: those of tokens that were taken back.
  void Trim(Sequence* sequence);
  // Gives back the pages beyond `length` and promises room for `room` tokens (at least `length`). RESOURCE_EXHAUSTED,
  // and nothing changes, when that cannot be had: pages that others share do not become free.
  absl::Status Shrink(Sequence* sequence, int64_t length, int64_t room, StepPlan* plan);

  const PagePool& pages() const { return pages_; }
  const PagePool& split_pages() const { return split_pages_; }
  int rings_free() const { return static_cast<int>(rings_.size()); }
  int rings() const { return total_rings_; }

 private:
  absl::Status ReserveOrExplain(int64_t pages, int64_t split_pages, int64_t tokens);
  static int64_t Own(const std::vector<int32_t>& ids, const PagePool& pool);
  absl::Status TakeSlot(Sequence* sequence);

  bool has_whole_, has_split_;
  int slots_;
  int64_t table_tokens_;
  PagePool pages_, split_pages_;
  std::vector<int32_t> tables_, rings_;
  int total_rings_;
};

}  // namespace duo
