#include "launcher/load/lengths.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/read_file.h"

namespace duo {
namespace {

constexpr int64_t kMost = int64_t{1} << 31;
constexpr size_t kMostFile = size_t{64} << 20;
constexpr double kMostMeans = 10;

absl::Status Unreadable(const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "expected tokens as N, A-B, ~MEAN or @FILE with a number on each line, all from 1 to ", kMost, ", found ", text));
}

bool IsLength(const std::string& text, int64_t* length) {
  return absl::SimpleAtoi(text, length) && *length >= 1 && *length <= kMost;
}

}  // namespace

absl::StatusOr<Lengths> Lengths::Parse(const std::string& text) {
  Lengths lengths;
  if (text.starts_with('@')) {
    absl::StatusOr<std::string> file = ReadFile(text.substr(1), kMostFile);
    if (!file.ok()) return file.status();
    std::istringstream lines(*file);
    for (std::string word; lines >> word;) {
      int64_t length = 0;
      if (!IsLength(word, &length)) return Unreadable(absl::StrCat(text, " with ", word));
      lengths.of_these_.push_back(length);
    }
    if (lengths.of_these_.empty()) return Unreadable(absl::StrCat(text, ", which is empty"));
    return lengths;
  }
  if (text.starts_with('~')) {
    int64_t mean = 0;
    if (!IsLength(text.substr(1), &mean)) return Unreadable(text);
    lengths.mean_ = static_cast<double>(mean);
    return lengths;
  }
  const std::vector<std::string> ends = absl::StrSplit(text, absl::MaxSplits('-', 1));
  if (!IsLength(ends.front(), &lengths.low_) || !IsLength(ends.back(), &lengths.high_)) return Unreadable(text);
  if (lengths.low_ > lengths.high_) return Unreadable(text);
  return lengths;
}

int64_t Lengths::Draw(uint64_t random) const {
  if (!of_these_.empty()) return of_these_[random % of_these_.size()];
  if (mean_ > 0) {
    const double uniform = (static_cast<double>(random >> 11) + 0.5) * 0x1p-53;
    return std::clamp<int64_t>(std::llround(-mean_ * std::log(uniform)), 1, most());
  }
  return low_ + static_cast<int64_t>(random % static_cast<uint64_t>(high_ - low_ + 1));
}

int64_t Lengths::most() const {
  if (!of_these_.empty()) return *std::max_element(of_these_.begin(), of_these_.end());
  return mean_ > 0 ? static_cast<int64_t>(kMostMeans * mean_) : high_;
}

}  // namespace duo
