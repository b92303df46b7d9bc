// Where a rank's weights lie: one buffer, every matrix at its place. For weights.cc and weights_random.cc alone.
#pragma once

#include "runtime/weights/weights.h"

namespace duo {

// Memory for all weights of the shard; every matrix points into `storage`, whose bytes are as allocated.
absl::StatusOr<ModelWeights> LayOutWeights(const ModelConfig& config, const RankShard& shard,
                                           const WeightFormats& formats, Device& device);

}  // namespace duo
