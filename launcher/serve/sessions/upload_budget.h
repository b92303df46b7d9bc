// UploadBudget: what all uploads together may hold, over all connections, owners and transports: texts that no session
// has read yet, bodies of HTTP requests, pieces on their way over gRPC. Counted as bytes arrive. Shared by what counts
// against it; thread-safe.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

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
  // What something is refused with that would not fit.
  absl::Status Full() const {
    return absl::ResourceExhaustedError(absl::StrCat("all uploads together hold ", used(), " bytes of at most ", limit_,
                                                     " (--max-upload-bytes); try again later"));
  }
  int64_t used() const { return used_; }
  int64_t limit() const { return limit_; }

 private:
  const int64_t limit_;
  std::atomic<int64_t> used_{0};
};

}  // namespace duo
