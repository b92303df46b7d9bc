// PeerShards: other ranks' shards of the layers, and the whole embedding, on a rank that computes some rows of a chunk
// with them (rows_prefill.h). With the rank's own shard, and those of its group, they are the whole model, nothing
// twice but rows of the embedding. Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "parallel/prefill_split.h"
#include "parallel/shard.h"
#include "runtime/weights/config.h"
#include "runtime/weights/weights.h"

namespace duo {

// Whom a rank shares out rows of long chunks with, and the shard of each group's peer, its own among them.
struct SharedRows {
  RowGroups groups;
  std::vector<RankShard> shards;  // [group]
};

struct PeerShards {
  std::vector<ModelWeights> layers;  // [group]: its peer's layers; without any for this rank's
  ModelWeights embedding;            // that alone, of all tokens
};

int64_t PeerShardBytes(const ModelConfig& config, const SharedRows& shared, const WeightFormats& formats);

// make: of one share, called as often on every rank, in the order of the groups' distance from the rank's own; so every
// time the shares of all ranks together are the whole, as LoadWeights needs it where they gather row maxima.
absl::StatusOr<PeerShards> MakePeerShards(const ModelConfig& config, const SharedRows& shared,
                                          const WeightFormats& formats,
                                          absl::FunctionRef<absl::StatusOr<ModelWeights>(const WeightShare&)> make);

}  // namespace duo
