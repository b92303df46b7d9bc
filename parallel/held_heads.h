// HeldHeads: what a rank holds of a model's heads, over all layers, for people and tables.
//
// Pure functions of plain values; thread-safe.
#pragma once

#include "parallel/partition.h"

namespace duo {

struct HeldHeads {
  int whole = 0;     // retrieval heads
  double split = 0;  // parts of split ones, in heads: pieces are added as fractions, so that three thirds are one head
  int streaming = 0;
  double retrieval() const { return whole + split; }
};
HeldHeads HeldBy(const Partition& partition, int rank);

}  // namespace duo
