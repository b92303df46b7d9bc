// Sampling over a vocabulary that is cut between ranks. Every rank gives its own shard of the logits; all get the same
// tokens, which do not depend on the number of ranks (ops.h, SampleParams). With top_p < 1 the draw is from
// the nucleus, the smallest set of the most likely tokens whose probabilities reach top_p: the best 1,024 logits are
// looked at first, twice as many until the nucleus is inside.
//
// A sample with a rule (step_plan.h) is drawn from a copy of its logits: edits first, then the mask; of what is left
// those that min_p keeps; of these the top_k best; of these the nucleus, whose probabilities are then those among the
// tokens that are still there. Scores are of the logits as the model gave them.
// Not thread-safe; synchronises the device.
#pragma once

#include <vector>

#include "runtime/model/best_logits.h"
#include "runtime/model/step_plan.h"

namespace duo {

// Drawn where a logit of the row is NaN or +infinity, on every rank alike: the model, its weights or its KV cache are
// at fault, and no token would mean anything.
constexpr int32_t kNoToken = -1;
// Drawn where a rule leaves no token.
constexpr int32_t kNoneAllowed = -2;

// shards: this rank's ShardSample of every row, host [rows]. own: the logits that they are of, read again only for rows
// with top_p < 1 or a rule. Of the plan, what it says of its samples. arena: free scratch. Of the result the tokens and
// the scores are set.
StepResult DrawTokens(Device& device, Communicator& comm, const std::vector<ShardSample>& shards, const LogitShard& own,
                      const StepPlan& plan, Arena& arena);

// Arena bytes that the largest draw takes: a rule's copy and nucleus over the whole shard, or the scores of all rows.
size_t DrawScratchBytes(const Device& device, int64_t samples, int64_t shard);

}  // namespace duo
