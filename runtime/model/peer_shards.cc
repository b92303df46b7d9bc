#include "runtime/model/peer_shards.h"

#include <utility>

namespace duo {
namespace {

// All rows of the vocabulary; as rank 0's, so that random ones are the same everywhere.
RankShard WholeVocabulary(const ModelConfig& config, RankShard shard) {
  shard.rank = 0;
  shard.vocab = {0, config.vocab};
  return shard;
}

}  // namespace

int64_t PeerShardBytes(const ModelConfig& config, const SharedRows& shared, const WeightFormats& formats) {
  const int own = shared.groups.group;
  int64_t bytes = WeightBytes({config, WholeVocabulary(config, shared.shards[own]), formats, WeightParts::kEmbedding});
  for (int g = 0; g < shared.groups.groups(); ++g) {
    if (g != own) bytes += WeightBytes({config, shared.shards[g], formats, WeightParts::kLayers});
  }
  return bytes;
}

absl::StatusOr<PeerShards> MakePeerShards(const ModelConfig& config, const SharedRows& shared,
                                          const WeightFormats& formats,
                                          absl::FunctionRef<absl::StatusOr<ModelWeights>(const WeightShare&)> make) {
  const int groups = shared.groups.groups(), own = shared.groups.group;
  PeerShards peers;
  peers.layers.resize(groups);
  for (int distance = 1; distance < groups; ++distance) {
    const int peer = (own + distance) % groups;
    absl::StatusOr<ModelWeights> made = make({config, shared.shards[peer], formats, WeightParts::kLayers});
    if (!made.ok()) return made.status();
    peers.layers[peer] = *std::move(made);
  }
  const RankShard whole = WholeVocabulary(config, shared.shards[own]);
  absl::StatusOr<ModelWeights> embedding = make({config, whole, formats, WeightParts::kEmbedding});
  if (!embedding.ok()) return embedding.status();
  peers.embedding = *std::move(embedding);
  return peers;
}

}  // namespace duo
