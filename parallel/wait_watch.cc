#include "parallel/wait_watch.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace duo {

WaitWatch::WaitWatch(int rank, Asked asked, std::function<void(const std::string&)> end,
                     std::chrono::milliseconds every)
    : rank_(rank), asked_(std::move(asked)), end_(std::move(end)), every_(every) {
  thread_ = std::thread([this] { Loop(); });
}

WaitWatch::~WaitWatch() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

std::string WaitWatch::Look() const {
  if (const std::string trouble = asked_.nccl(); !trouble.empty()) {
    return absl::StrCat("rank ", rank_, ": NCCL lost a peer or the way to it: ", trouble,
                        "; NCCL_DEBUG=WARN tells more");
  }
  if (const int silent = asked_.silent_peer(); silent >= 0) {
    return absl::StrCat("rank ", rank_, ": expected a message in GPU memory from rank ", silent, ", found none for ",
                        kPeerSilenceSeconds, " s");
  }
  return "";
}

void WaitWatch::Loop() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, every_, [this] { return stop_; })) {
    if (const std::string wrong = Look(); !wrong.empty()) return end_(wrong);
  }
}

}  // namespace duo
