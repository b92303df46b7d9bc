// What a rank's weights take, for plans of many ranks: most hold as much as others do, and counting a mixture's
// thousands of slices again for each takes longer than all else of a plan. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "parallel/shard.h"
#include "runtime/weights/weights.h"

namespace duo {

class PlannedWeights {
 public:
  // Keeps references.
  PlannedWeights(const ModelConfig& config, const WeightFormats& formats) : config_(config), formats_(formats) {}

  // WeightBytes of this share.
  int64_t Bytes(const RankShard& shard);

 private:
  const ModelConfig& config_;
  const WeightFormats& formats_;
  std::map<std::vector<int64_t>, int64_t> known_;  // by what the bytes depend on
};

}  // namespace duo
