#include "launcher/plan_weights.h"

namespace duo {

int64_t PlannedWeights::Bytes(const RankShard& shard) {
  // Sizes count, not places; of heads how many there are, whatever their kind; biases are where their columns' sum is.
  std::vector<int64_t> sizes = {shard.rank == 0,      shard.ffn.size(),    shard.vocab.size(),
                                shard.experts.size(), shard.expert.size(), shard.shared_expert.size()};
  for (const std::vector<LocalHead>& layer : shard.layers) sizes.push_back(static_cast<int64_t>(layer.size()));
  const auto [found, fresh] = known_.try_emplace(std::move(sizes));
  if (fresh) found->second = WeightBytes({config_, shard, formats_});
  return found->second;
}

}  // namespace duo
