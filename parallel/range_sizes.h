// What planning asks of ProportionalRange (shard.h) for every rank and layer: how long the ranges are, of all ranks in
// one pass, where each range alone takes one of its own. A pure function, any thread.
#pragma once

#include <cstdint>
#include <vector>

namespace duo {

// [world]: the length of ProportionalRange(total, shares, rank, granularity) of each rank.
std::vector<int64_t> RangeSizes(int64_t total, const std::vector<double>& shares, int64_t granularity);

}  // namespace duo
