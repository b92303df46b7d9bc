// ListedAnswer: the page lists of one answer (runtime/model/decode_sparsity.h): where they were made, and what was
// found of them. A value; rank 0's scheduler has one a request.
#pragma once

#include <cstdint>

#include "runtime/model/decode_sparsity.h"

namespace duo {

class ListedAnswer {
 public:
  int slot = -1;  // of the lists; -1: it has none

  bool made() const { return made_at_ >= 0; }
  // May the row at `position` visit the lists? Not if they are old, or hold everything.
  bool Serves(int64_t position) const { return Fresh(position) && found_.left_out; }
  bool Fresh(int64_t position) const { return made() && position - made_at_ < kDenseEvery; }
  // Is it time that the row at `position` makes lists? fewest: pages of a sequence that may have some.
  bool Due(int64_t position, int64_t fewest) const { return DueFor(position, position, fewest); }
  // Likewise, so that there are some for the row at `next`.
  bool DueFor(int64_t next, int64_t position, int64_t fewest) const {
    return !Fresh(next) && position / kPageTokens + 1 >= fewest;
  }
  // The row at `position` made lists.
  void Made(int64_t position, const ListsFound& found) {
    made_at_ = position;
    found_ = found;
    report_.Add(found);
  }
  // The row at `position` visits lists, and a token is drawn from it.
  void Visited(int64_t position) {
    if (first_visit_ < 0) first_visit_ = position;
    ++report_.listed_tokens;
  }
  // Of `length` tokens, those whose keys and values do not follow from rows that visited lists.
  int64_t Exact(int64_t length) const { return first_visit_ < 0 || first_visit_ > length ? length : first_visit_; }
  // Pages that a head visits at `position`, the mean over heads.
  double Pages(int64_t position) const {
    const int64_t begun_since = position / kPageTokens - made_at_ / kPageTokens;
    return found_.visited + static_cast<double>(begun_since);
  }
  DecodeReport Report(const DecodeSparsity& setting) const {
    DecodeReport report = report_;
    if (report.sparse()) report.setting = Name(setting);
    return report;
  }

 private:
  int64_t made_at_ = -1, first_visit_ = -1;
  ListsFound found_;  // when they were made
  DecodeReport report_;
};

}  // namespace duo
