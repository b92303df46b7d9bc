// PagePool: which page ids are free, and how many sequences share each. Rank 0's bookkeeping; the bytes are in KvCache.
// A fork shares its parent's full pages; the last, partly filled page is copied when the fork writes to it.
// Reservations make admission exact: pages promised to a session cannot be given to another, so nothing runs out
// half-way. Not thread-safe; owned by the scheduler.
#pragma once

#include <cstdint>
#include <vector>

namespace duo {

class PagePool {
 public:
  explicit PagePool(int64_t pages);

  int64_t size() const { return static_cast<int64_t>(references_.size()); }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }  // not in use, promised or not
  int64_t available() const { return free() - reserved_; }             // neither in use nor promised
  int64_t reserved() const { return reserved_; }

  // Promises `pages` to the caller; false, and nothing changes, when fewer are available.
  bool Reserve(int64_t pages);
  void Unreserve(int64_t pages);

  // A page with one reference, out of the caller's own reservation, which shrinks by one.
  int32_t Take();
  void Share(int32_t id);  // one reference more
  // One reference less. True when the page became free.
  bool Drop(int32_t id);
  int references(int32_t id) const { return references_[id]; }

 private:
  std::vector<int32_t> references_;  // [id]
  std::vector<int32_t> free_;
  int64_t reserved_ = 0;
};

}  // namespace duo
