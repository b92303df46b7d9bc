#include "runtime/scheduler/sequence.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "runtime/scheduler/busy.h"

namespace duo {
namespace {

void WriteTable(StepPlan* plan, bool split, int table, int64_t first, const std::vector<int32_t>& ids) {
  const auto count = static_cast<int32_t>(ids.size() - first);
  if (count <= 0) return;
  plan->table_writes.push_back({split ? 1 : 0, table, static_cast<int32_t>(first), count});
  plan->table_ids.insert(plan->table_ids.end(), ids.begin() + first, ids.end());
}

}  // namespace

SequencePool::SequencePool(const KvSizes& sizes, bool has_whole, bool has_split)
    : has_whole_(has_whole),
      has_split_(has_split),
      slots_(sizes.slots),
      table_tokens_(sizes.table_pages * kPageTokens),
      pages_(sizes.pages),
      split_pages_(sizes.split_pages),
      total_rings_(sizes.rings - 1) {
  for (int table = sizes.tables; table-- > 0;) tables_.push_back(table);
  for (int ring = total_rings_; ring-- > 0;) rings_.push_back(ring);
}

absl::Status SequencePool::ReserveOrExplain(int64_t pages, int64_t split_pages, int64_t tokens) {
  if (tokens > table_tokens_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d tokens were asked for, a session holds at most %d", tokens, table_tokens_));
  }
  if (pages > 0 && !pages_.Reserve(pages)) {
    return Busy(absl::StrFormat(
        "KV memory: %d tokens need %d pages of %d tokens, %d of %d are available (the others are in use or promised)",
        tokens, pages, kPageTokens, pages_.available(), pages_.size()));
  }
  if (split_pages > 0 && !split_pages_.Reserve(split_pages)) {
    pages_.Unreserve(std::max<int64_t>(pages, 0));
    return Busy(absl::StrFormat(
        "KV memory: %d tokens need %d split pages of %d tokens, %d of %d are available (the others are in "
        "use or promised)",
        tokens, split_pages, kPageTokens * slots_, split_pages_.available(), split_pages_.size()));
  }
  pages_.Unreserve(std::max<int64_t>(-pages, 0));
  split_pages_.Unreserve(std::max<int64_t>(-split_pages, 0));
  return absl::OkStatus();
}

absl::Status SequencePool::TakeSlot(Sequence* sequence) {
  if (tables_.empty() || rings_.empty()) {
    return Busy(absl::StrFormat("all %d session and question slots are in use; close a session or wait", total_rings_));
  }
  sequence->table = tables_.back();
  tables_.pop_back();
  sequence->ring = rings_.back();
  rings_.pop_back();
  return absl::OkStatus();
}

absl::Status SequencePool::Open(int64_t room, Sequence* sequence) {
  Sequence opened;
  opened.reserved = PagesFor(room);
  opened.split_reserved = SplitPagesFor(room);
  if (absl::Status s = ReserveOrExplain(opened.reserved, opened.split_reserved, room); !s.ok()) return s;
  if (absl::Status s = TakeSlot(&opened); !s.ok()) {
    pages_.Unreserve(opened.reserved);
    split_pages_.Unreserve(opened.split_reserved);
    return s;
  }
  *sequence = std::move(opened);
  return absl::OkStatus();
}

absl::Status SequencePool::Fork(const Sequence& parent, int64_t at, int64_t room, Sequence* fork, StepPlan* plan) {
  Sequence child;
  child.length = at;
  child.rings_at = at == parent.length ? parent.rings_at : at;
  child.ring_begin = at == parent.length ? parent.ring_begin : 0;
  child.sparse = parent.sparse;
  child.sparse.Cut(at);
  const int64_t full = FullPages(at);
  const int64_t split_full = FullSplitPages(at);
  child.reserved = PagesFor(room) - full;
  child.split_reserved = SplitPagesFor(room) - split_full;
  if (absl::Status s = ReserveOrExplain(child.reserved, child.split_reserved, room); !s.ok()) return s;
  if (absl::Status s = TakeSlot(&child); !s.ok()) {
    pages_.Unreserve(child.reserved);
    split_pages_.Unreserve(child.split_reserved);
    return s;
  }
  child.pages.assign(parent.pages.begin(), parent.pages.begin() + full);
  child.split_pages.assign(parent.split_pages.begin(), parent.split_pages.begin() + split_full);
  for (int32_t id : child.pages) pages_.Share(id);
  for (int32_t id : child.split_pages) split_pages_.Share(id);
  // The partly filled last page: a copy of its own, now, so that parent and fork can both go on writing.
  if (static_cast<int64_t>(parent.pages.size()) > full && at % kPageTokens != 0) {
    child.pages.push_back(pages_.Take());
    --child.reserved;
    plan->page_copies.push_back({0, parent.pages[full], child.pages.back()});
  }
  if (static_cast<int64_t>(parent.split_pages.size()) > split_full && at % (int64_t{kPageTokens} * slots_) != 0) {
    child.split_pages.push_back(split_pages_.Take());
    --child.split_reserved;
    plan->page_copies.push_back({1, parent.split_pages[split_full], child.split_pages.back()});
  }
  plan->ring_copies.push_back({0, parent.ring, child.ring});
  WriteTable(plan, false, child.table, 0, child.pages);
  WriteTable(plan, true, child.table, 0, child.split_pages);
  *fork = std::move(child);
  return absl::OkStatus();
}

void SequencePool::Close(Sequence* sequence) {
  for (int32_t id : sequence->pages) pages_.Drop(id);
  for (int32_t id : sequence->split_pages) split_pages_.Drop(id);
  pages_.Unreserve(sequence->reserved);
  split_pages_.Unreserve(sequence->split_reserved);
  if (sequence->table >= 0) tables_.push_back(sequence->table);
  if (sequence->ring >= 0) rings_.push_back(sequence->ring);
  *sequence = Sequence();
}

absl::Status SequencePool::SetRoom(Sequence* sequence, int64_t room) {
  const int64_t more = PagesFor(room) - static_cast<int64_t>(sequence->pages.size()) - sequence->reserved;
  const int64_t split_more =
      SplitPagesFor(room) - static_cast<int64_t>(sequence->split_pages.size()) - sequence->split_reserved;
  if (absl::Status s = ReserveOrExplain(more, split_more, room); !s.ok()) return s;
  sequence->reserved += more;
  sequence->split_reserved += split_more;
  return absl::OkStatus();
}

int64_t SequencePool::Own(const std::vector<int32_t>& ids, const PagePool& pool) {
  return std::count_if(ids.begin(), ids.end(), [&](int32_t id) { return pool.references(id) == 1; });
}

void SequencePool::Grow(Sequence* sequence, int64_t length, StepPlan* plan) {
  const auto first = static_cast<int64_t>(sequence->pages.size()),
             split_first = static_cast<int64_t>(sequence->split_pages.size());
  while (static_cast<int64_t>(sequence->pages.size()) < PagesFor(length)) {
    sequence->pages.push_back(pages_.Take());
    DUO_CHECK_GE(--sequence->reserved, 0);
  }
  while (static_cast<int64_t>(sequence->split_pages.size()) < SplitPagesFor(length)) {
    sequence->split_pages.push_back(split_pages_.Take());
    DUO_CHECK_GE(--sequence->split_reserved, 0);
  }
  WriteTable(plan, false, sequence->table, first, sequence->pages);
  WriteTable(plan, true, sequence->table, split_first, sequence->split_pages);
}

// Nobody shares them: forks share full pages only.
void SequencePool::Trim(Sequence* sequence) {
  const auto trim = [](std::vector<int32_t>& ids, PagePool& pool, int64_t keep, int64_t* reserved) {
    for (; static_cast<int64_t>(ids.size()) > keep; ids.pop_back(), ++*reserved) {
      pool.Drop(ids.back());
      DUO_CHECK(pool.Reserve(1));
    }
  };
  trim(sequence->pages, pages_, PagesFor(sequence->length), &sequence->reserved);
  trim(sequence->split_pages, split_pages_, SplitPagesFor(sequence->length), &sequence->split_reserved);
}

absl::Status SequencePool::Shrink(Sequence* sequence, int64_t length, int64_t room, StepPlan* plan) {
  const int64_t keep = PagesFor(length), split_keep = SplitPagesFor(length);
  // A page that a fork shares is not ours to write again: a shared page that the cut leaves partly filled is copied.
  const bool copy = length % kPageTokens != 0 && keep > 0 && pages_.references(sequence->pages[keep - 1]) > 1;
  const bool split_copy = length % (int64_t{kPageTokens} * slots_) != 0 && split_keep > 0 &&
                          split_pages_.references(sequence->split_pages[split_keep - 1]) > 1;
  // What is cut off and not shared is available again.
  auto freed = [](const std::vector<int32_t>& ids, int64_t from, const PagePool& pool) {
    return Own({ids.begin() + from, ids.end()}, pool);
  };
  const int64_t target = PagesFor(room) - keep + copy, split_target = SplitPagesFor(room) - split_keep + split_copy;
  const int64_t needed = target - sequence->reserved - freed(sequence->pages, keep, pages_);
  const int64_t split_needed =
      split_target - sequence->split_reserved - freed(sequence->split_pages, split_keep, split_pages_);
  if (needed > pages_.available() || split_needed > split_pages_.available()) {
    return Busy(absl::StrFormat(
        "KV memory: to cut the session to %d tokens with room for %d takes %d pages and %d split pages more, because "
        "forks share its own; %d and %d are available",
        length, room, std::max<int64_t>(needed, 0), std::max<int64_t>(split_needed, 0), pages_.available(),
        split_pages_.available()));
  }
  auto drop = [](std::vector<int32_t>& ids, PagePool& pool, int64_t from, int64_t target, int64_t* reserved) {
    for (; static_cast<int64_t>(ids.size()) > from; ids.pop_back()) pool.Drop(ids.back());
    pool.Unreserve(*reserved);
    DUO_CHECK(pool.Reserve(target));
    *reserved = target;
  };
  drop(sequence->pages, pages_, keep, target, &sequence->reserved);
  drop(sequence->split_pages, split_pages_, split_keep, split_target, &sequence->split_reserved);
  auto own_last = [&](bool split, std::vector<int32_t>& ids, PagePool& pool, int64_t* reserved) {
    const int32_t shared = ids.back();
    ids.back() = pool.Take();
    --*reserved;
    pool.Drop(shared);
    plan->page_copies.push_back({split ? 1 : 0, shared, ids.back()});
    WriteTable(plan, split, sequence->table, static_cast<int64_t>(ids.size()) - 1, ids);
  };
  if (copy) own_last(false, sequence->pages, pages_, &sequence->reserved);
  if (split_copy) own_last(true, sequence->split_pages, split_pages_, &sequence->split_reserved);
  return absl::OkStatus();
}

}  // namespace duo
