// Sampling over a vocabulary that is cut between ranks. Every rank gives its own shard of the logits; all get the same
// tokens, which do not depend on the number of ranks (ops.h, SampleParams). With top_p < 1 the draw is from
// the nucleus, the smallest set of the most likely tokens whose probabilities reach top_p: the best 1,024 logits are
// looked at first, twice as many until the nucleus is inside. Not thread-safe; synchronises the device.
#pragma once

#include <vector>

#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace duo {

// Drawn where a logit of the row is NaN or +infinity, on every rank alike: the model, its weights or its KV cache are
// at fault, and no token would mean anything.
constexpr int32_t kNoToken = -1;

// This rank's columns of the logits, device [rows, shard] f32, from token first_id on.
struct LogitShard {
  View logits;
  int32_t first_id = 0;
};

// shards: this rank's ShardSample of every row, host [rows]. own: the logits that they are of, read again only for rows
// with top_p < 1. arena: free scratch.
std::vector<int32_t> DrawTokens(Device& device, Communicator& comm, const std::vector<ShardSample>& shards,
                                const LogitShard& own, const std::vector<SampleParams>& params, Arena& arena);

// Arena bytes for one row's nucleus over the whole shard.
size_t DrawScratchBytes(const Device& device, int64_t shard);

}  // namespace duo
