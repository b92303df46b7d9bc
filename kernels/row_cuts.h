// Where the keys of few rows are cut into ranges (AttendPages). The partial result of a range depends on nothing but
// the row and the range's keys, and partials are added up in ascending order; so with cuts at fixed positions a row's
// result does not depend on what other rows ride in its step. One source for host and device code. Pure functions.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"

namespace duo {

// Rows of a step up to which a row's bits are the same alone, shared and in company.
constexpr int kExactRows = 16;

// Every 512 to 32,768, every 2,048 to 131,072, every 4,096 to 1,048,576, then every 16,384; or, for many rows, whose
// partial results would take much room, at multiples of `even`.
struct RowCuts {
  int even = 0;
  DUO_HD int RangeOf(int64_t position) const {
    if (even > 0) return static_cast<int>(position / even);
    if (position < 32768) return static_cast<int>(position / 512);
    if (position < 131072) return static_cast<int>(64 + (position - 32768) / 2048);
    if (position < 1048576) return static_cast<int>(112 + (position - 131072) / 4096);
    return static_cast<int>(336 + (position - 1048576) / 16384);
  }
  DUO_HD int Begin(int range) const {
    if (even > 0) return range * even;
    if (range < 64) return range * 512;
    if (range < 112) return 32768 + (range - 64) * 2048;
    if (range < 336) return 131072 + (range - 112) * 4096;
    return 1048576 + (range - 336) * 16384;
  }
};

// Partial results that more than kExactRows rows may have: their ranges are as long as that asks for.
constexpr int64_t kMostPartials = 4096;

// The cuts of a step of so many rows over at most so many tokens.
inline RowCuts CutsFor(int rows, int64_t max_tokens) {
  RowCuts cuts;
  if (rows <= kExactRows) return cuts;
  const int64_t ranges = rows < kMostPartials ? kMostPartials / rows : 1;
  const int64_t each = (max_tokens + ranges - 1) / ranges;
  cuts.even = static_cast<int>(each < 2048 ? 2048 : (each + 2047) / 2048 * 2048);
  return cuts;
}
// Partial results of such a step, in rows, at most; never fewer for more tokens.
inline int64_t MostPartialsOf(int rows, int64_t max_tokens) {
  const int64_t last = max_tokens > 1 ? max_tokens - 1 : 0;
  if (rows <= kExactRows) return int64_t{rows} * (RowCuts().RangeOf(last) + 1);
  const int64_t ranges = rows < kMostPartials ? kMostPartials / rows : 1, least = last / 2048 + 1;
  return rows * (ranges < least ? ranges : least);
}

}  // namespace duo
