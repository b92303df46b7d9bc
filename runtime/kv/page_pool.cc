#include "runtime/kv/page_pool.h"

#include "kernels/base/check.h"

namespace duo {

PagePool::PagePool(int64_t pages) : references_(pages, 0) {
  free_.reserve(pages);
  for (int64_t id = pages; id-- > 0;) free_.push_back(static_cast<int32_t>(id));  // low ids first
}

bool PagePool::Reserve(int64_t pages) {
  if (pages > available()) return false;
  reserved_ += pages;
  return true;
}

void PagePool::Unreserve(int64_t pages) {
  DUO_CHECK_LE(pages, reserved_);
  reserved_ -= pages;
}

int32_t PagePool::Take() {
  DUO_CHECK_GT(reserved_, 0);
  DUO_CHECK(!free_.empty());
  const int32_t id = free_.back();
  free_.pop_back();
  --reserved_;
  references_[id] = 1;
  return id;
}

void PagePool::Share(int32_t id) {
  DUO_CHECK_GT(references_[id], 0);
  ++references_[id];
}

bool PagePool::Drop(int32_t id) {
  DUO_CHECK_GT(references_[id], 0);
  if (--references_[id] > 0) return false;
  free_.push_back(id);
  return true;
}

}  // namespace duo
