// Where a rank's weights lie: one buffer, every weight at its place, in the order of the family's records. For those
// who fill them (weights.cc, weights_random.cc) and those who measure (runtime/model/workspace.cc).
#pragma once

#include <vector>

#include "runtime/weights/held_weights.h"
#include "runtime/weights/weights.h"

namespace duo {

// Memory for all weights of the share; every weight points into `storage`, whose bytes are as allocated.
absl::StatusOr<ModelWeights> LayOutWeights(const WeightShare& share, Device& device);

// HeldWeights of what the share has.
std::vector<HeldWeight> WeightsOf(const WeightShare& share);

}  // namespace duo
