// PagesRead: do a step's rows that may visit page lists read fewer pages by them? Rows of sequences that begin with the
// same pages read these together when they see everything; lists are each row's own. A plain value.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>

namespace duo {

class PagesRead {
 public:
  // A row that sees all of so many pages; first: the id of the first one.
  void Sees(int32_t first, int64_t pages) { Longest(&seen_[first], pages); }
  // A row that would otherwise, and may visit so many of them.
  void MayVisit(int32_t first, int64_t pages, double listed) {
    Longest(&unlisted_[first], pages);
    listed_ += listed;
  }
  bool visits() const {
    int64_t seen = 0, all = 0;
    std::map<int32_t, int64_t> together = seen_;
    for (const auto& [first, pages] : seen_) seen += pages;
    for (const auto& [first, pages] : unlisted_) Longest(&together[first], pages);
    for (const auto& [first, pages] : together) all += pages;
    return !unlisted_.empty() && listed_ + static_cast<double>(seen) < static_cast<double>(all);
  }

 private:
  static void Longest(int64_t* longest, int64_t pages) { *longest = std::max(*longest, pages); }
  std::map<int32_t, int64_t> seen_, unlisted_;  // by first page: pages of the longest of those that begin with it
  double listed_ = 0;
};

}  // namespace duo
