// RefusalLog: which refused calls get a line in the log. Whoever is refused could otherwise fill it: after the first
// few of a second they are counted, and the next line that is written says how many there were. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>

namespace duo {

class RefusalLog {
 public:
  static constexpr int kLines = 10;  // a second
  using Time = std::chrono::steady_clock::time_point;

  // Of a call refused `now`: the refusals since the last line that got none; nothing if this one gets none, too.
  std::optional<int64_t> Line(Time now) {
    std::lock_guard lock(mutex_);
    if (now - begun_ >= std::chrono::seconds(1)) {
      begun_ = now;
      lines_ = 0;
    }
    if (lines_ == kLines) {
      ++left_out_;
      return std::nullopt;
    }
    ++lines_;
    const int64_t left_out = left_out_;
    left_out_ = 0;
    return left_out;
  }

 private:
  std::mutex mutex_;  // guards what follows
  Time begun_;
  int lines_ = 0;
  int64_t left_out_ = 0;
};

}  // namespace duo
