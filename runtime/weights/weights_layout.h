// Where a rank's weights lie: one buffer, every weight at its place, in the order of the family's records. For those
// who fill them (weights.cc, weights_random.cc) and those who measure (runtime/model/workspace.cc).
#pragma once

#include <optional>
#include <vector>

#include "runtime/weights/held_weights.h"
#include "runtime/weights/weights.h"

namespace duo {

// Memory for all weights of the share; every weight points into `storage`, whose bytes are as allocated.
absl::StatusOr<ModelWeights> LayOutWeights(const WeightShare& share, Device& device);

// FitTo with the pieces that the weight's columns are cut into on any number of ranks. Blocks of fp8 need whole pieces
// only where others follow in memory, which are a head's: elsewhere ranks cut at the bounds of blocks (cut_unit.h).
std::optional<CodeFormat> FitTo(const CodeFormat& format, const HeldWeight& held);

// The format that a matrix has in memory: its own, or that of all, with groups that straddle no two pieces of its
// columns.
CodeFormat FormatOf(const HeldWeight& held, const WeightFormats& formats);

// Formats and shapes of the share's weights, without memory: matrices with rows and columns whose data is null.
ModelWeights DescribeWeights(const WeightShare& share);

// HeldWeights of what the share has.
std::vector<HeldWeight> WeightsOf(const WeightShare& share);

}  // namespace duo
