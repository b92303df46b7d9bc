// UploadBudget: how much text all uploads together may hold that no session has read yet. Shared by the texts that
// count against it; thread-safe.
#pragma once

#include <atomic>
#include <cstdint>

namespace duo {

class UploadBudget {
 public:
  explicit UploadBudget(int64_t limit) : limit_(limit) {}

  // False, and nothing changes, where less than `bytes` is left.
  bool Take(int64_t bytes) {
    if (used_.fetch_add(bytes) + bytes <= limit_) return true;
    used_ -= bytes;
    return false;
  }
  void Give(int64_t bytes) { used_ -= bytes; }
  int64_t used() const { return used_; }
  int64_t limit() const { return limit_; }

 private:
  const int64_t limit_;
  std::atomic<int64_t> used_{0};
};

}  // namespace duo
