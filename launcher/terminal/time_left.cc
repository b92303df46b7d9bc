#include "launcher/terminal/time_left.h"

#include <algorithm>
#include <cmath>

namespace duo {
namespace {

constexpr size_t kMostMarks = 64;

}  // namespace

void TimeLeft::Seen(int64_t done, double seconds) {
  if (done <= 0 || (!marks_.empty() && marks_.back().done >= static_cast<double>(done))) return;
  if (marks_.size() == kMostMarks) {
    for (size_t i = 0; i < kMostMarks / 2; ++i) marks_[i] = marks_[2 * i + 1];
    marks_.resize(kMostMarks / 2);
  }
  marks_.push_back({static_cast<double>(done), seconds});
}

double TimeLeft::Until(int64_t total) const {
  if (marks_.empty()) return -1;
  const Mark now = marks_.back();
  const Mark half = *std::min_element(marks_.begin(), marks_.end(), [&](const Mark& a, const Mark& b) {
    return std::abs(a.done - now.done / 2) < std::abs(b.done - now.done / 2);
  });
  const double each = now.seconds / now.done;
  const double growth = half.done < now.done ? (each - half.seconds / half.done) / (now.done - half.done) : 0;  // b
  const double b = std::clamp(growth, 0.0, each / now.done), a = each - b * now.done, n = static_cast<double>(total);
  return a * n + b * n * n - now.seconds;
}

}  // namespace duo
