// Partition: which rank holds which attention head, whole or split along the sequence, in every layer.
//
// Why: every layer ends in an all-reduce, so a layer costs what its busiest rank costs, and a retrieval head costs some
// thousand times a streaming head. Whole heads cannot be dealt out evenly when a layer has fewer of them than ranks, or
// a number that the ranks do not divide. So the heads left over are split: per layer, r retrieval heads on G equal
// ranks,
//   - floor(r / G) whole heads to each rank;
//   - the m = r mod G others laid end to end, G slots each, and the m G slots cut into G runs of m. Since m < G, a run
//     touches at most two heads.
// With unequal rank weights all r heads, 64 slots each, are laid end to end and cut in proportion: a run is then a
// piece, whole heads, a piece. Page p of a split head belongs to the holder of slot p mod (slots of the head).
// Streaming heads go where they even out the rest of the layer's work. Ranks may hold different numbers of heads, or
// none.
//
// Strategies:
// - contiguous: head h on rank floor(h G / H); with G > H on ranks floor(h G / H) to floor((h + 1) G / H) - 1, each
//   holding a copy. It is what other systems do, and the baseline.
// - heads: the best placement of whole heads, ceil(r / G) on the busiest rank, the odd ones rotated over the layers.
// - split: as above, always.
// - auto: per layer the cheaper of heads and split by the cost model, hence never worse than any of the others. Cheap
// is
//   what costs least for a whole document: reading it, and the steps that are written behind it (PartitionRequest).
//   Split heads cost a step some launches, and save a read the time in which the other ranks wait for the one that has
//   a whole head more.
//
// Plain values, made once at start from the same inputs on every rank: equal inputs give equal partitions everywhere.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "attn_patterns/head_plan.h"
#include "parallel/cost_model.h"
#include "parallel/expert_placement.h"

namespace duo {

enum class Strategy { kAuto, kContiguous, kHeads, kSplit };
const char* Name(Strategy strategy);                            // "auto", "contiguous", "heads", "split"
absl::StatusOr<Strategy> ParseStrategy(std::string_view name);  // the reverse

struct SplitPiece {
  int head = 0;
  int first = 0, last = 0, of = 1;  // slots [first, last) of `of`
};

struct RankHeads {
  std::vector<int> whole;         // KV heads, ascending; all are retrieval heads
  std::vector<SplitPiece> split;  // at most two, of ascending heads
  std::vector<int> streaming;     // KV heads, ascending
};

// 1.0 is perfect in all of them; with no retrieval head at all they are 1. With rank weights a rank's load is divided
// by its share of the weights.
struct Balance {
  double time = 1;        // sum over layers of the busiest rank's retrieval load / (all retrieval heads / world)
  double memory = 1;      // busiest rank's retrieval KV / mean over the ranks
  double naive_time = 1;  // the same of `contiguous`
  double naive_memory = 1;
  double heads_time = 1;  // time of `heads`
};

// By the cost model.
struct ModelledSeconds {
  double step = 0, read = 0;
};

struct Partition {
  Strategy strategy = Strategy::kAuto;
  int world = 1;
  std::vector<double> shares;                  // [world]: a rank's share of the weights; they add up to 1
  std::vector<std::vector<RankHeads>> layers;  // [layer][rank]
  Balance balance;
  double step_seconds = 0;  // of one decode step, as modelled
  double read_seconds = 0;  // of reading `context` tokens, likewise
  // Of a mixture on several ranks: how its experts lie, and those seconds with experts in either way.
  bool whole_experts = false;
  ModelledSeconds with_split_experts, with_whole_experts;
};

// Tokens that are written behind a document for each token of it: of a million tokens ten thousand. Reading then weighs
// a little more than writing.
constexpr double kWrittenPerToken = 0.01;

struct PartitionRequest {
  ModelShape shape;
  HeadPlan heads;
  int world = 1;
  std::vector<double> rank_weights;  // [world] or empty: all alike
  int64_t context = 1'000'000;       // tokens; what the cost model aims at
  int64_t kv_token_bytes = 0;        // K and V of one token and one KV head, as stored
  int weight_bits = 16;
  Strategy strategy = Strategy::kAuto;
  // How often a document of `context` tokens is read for each step that is written behind it: what `auto` weighs the
  // two by. 0: steps alone count.
  double reads_per_step = 0;
  MachineRates rates;
  HostLayout hosts;
  // Of a mixture. `auto` weighs steps and reading as that of heads does.
  ExpertPlacement experts = ExpertPlacement::kAuto;
  int64_t expert_unit = 1;  // split experts are cut at multiples of so many columns
};

// The weight for documents of so many tokens by kWrittenPerToken.
double ReadsPerStep(int64_t context);

// Fails when the sizes contradict each other: heads not a multiple of KV heads, a plan of another shape, a weight <= 0.
absl::StatusOr<Partition> MakePartition(const PartitionRequest& request);

// The strategies from the simplest to the cheapest.
std::vector<Strategy> ReadingOrder();
// The request's own strategy first, then the other three: what a reader compares.
absl::StatusOr<std::vector<Partition>> AllStrategies(const PartitionRequest& request);

// A rank's retrieval load in a layer, in heads.
double RetrievalLoad(const RankHeads& heads);
HeadLoad LoadOf(const RankHeads& heads);

// The heads of a layer that are split, ascending: the common order in which ranks exchange their lse.
std::vector<int> SplitHeads(const std::vector<RankHeads>& layer);

// The rank that attends within a prefill chunk for this split head: the holder of its largest piece; ties rotate over
// the layers.
int ChunkOwner(const Partition& partition, int layer, int head);

// The model's inputs as the cost model wants them, with experts as they then lie.
CostModel MakeCostModel(const PartitionRequest& request);
// One layer's modelled seconds of a step: its busiest rank, its messages, its feed-forward block.
double LayerSeconds(const CostModel& model, const std::vector<RankHeads>& layer, const std::vector<double>& shares);
// The same while `context` tokens are read.
double LayerReadSeconds(const CostModel& model, const std::vector<RankHeads>& layer, const std::vector<double>& shares);

}  // namespace duo
