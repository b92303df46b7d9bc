// The geometry of a streaming head's ring: S sinks, then a circular part of R + 1 tokens, the last R and the row's own.
// Where up to `slack` of the last tokens may be taken back again (drafts), the circular part has as many more slots:
// what they overwrote, no row that follows sees. One definition for planning, memory, kernels and files. Pure,
// thread-safe; host and device code.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"

namespace duo {

// Tokens that a ring holds.
DUO_HD constexpr int RingSlots(int sink, int recent, int slack = 0) { return sink + recent + 1 + slack; }

// The slot of a position's token, until a later token of the circular part takes it.
DUO_HD constexpr int RingSlot(int64_t position, int sink, int recent, int slack = 0) {
  return position < sink ? static_cast<int>(position)
                         : sink + static_cast<int>((position - sink) % (recent + 1 + slack));
}

}  // namespace duo
