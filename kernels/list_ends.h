// The list of a row that sees the ends of its sequence alone: the first page, which holds the sinks, and the last ones,
// as a streaming head does (decode_lists.h has the other lists). It follows from the row's position, so that nothing is
// made for it and nothing kept, and any layer with whole heads can visit it, also one without lists.
#pragma once

#include <cstdint>

#include "kernels/decode_lists.h"

namespace duo {

// SeqSpan::list of a row that visits it (ListUse::kVisit).
constexpr int32_t kListOfEnds = -1;

// The list of a row at `position`: pages [0, length) and those from `tail` on.
DUO_HD inline ListedHead EndsOf(int32_t position) {
  ListedHead ends;
  ends.pages = position / kPageTokens + 1;
  ends.tail = DecodeListRule::Tail(ends.pages);
  ends.length = ends.tail < DecodeListRule::kSinkPages ? ends.tail : DecodeListRule::kSinkPages;
  return ends;
}

}  // namespace duo
