#include "parallel/partition.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/ring.h"
#include "parallel/placement.h"
#include "parallel/range_sizes.h"

namespace duo {
namespace {

double TimeBalance(const std::vector<LayerHeads>& layers, const std::vector<double>& shares, int64_t retrieval_heads) {
  if (retrieval_heads == 0) return 1;
  double time = 0;
  for (const LayerHeads& layer : layers) {
    double busiest = 0;
    for (size_t r = 0; r < layer.size(); ++r) busiest = std::max(busiest, RetrievalLoad(layer[r]) / shares[r]);
    time += busiest;
  }
  return time / retrieval_heads;
}

double MemoryBalance(const std::vector<LayerHeads>& layers, const std::vector<double>& shares) {
  double busiest = 0, all = 0;
  for (size_t r = 0; r < shares.size(); ++r) {
    double held = 0;
    for (const LayerHeads& layer : layers) held += RetrievalLoad(layer[r]);
    busiest = std::max(busiest, held / shares[r]);
    all += held;
  }
  return all == 0 ? 1 : busiest / all;
}

// Every rank's part of the work; they add up to 1.
std::vector<double> SharesOf(const PartitionRequest& request) {
  std::vector<double> shares = request.rank_weights;
  if (shares.empty()) shares.assign(request.world, 1.0);
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

absl::Status Validate(const PartitionRequest& request) {
  const ModelShape& shape = request.shape;
  if (shape.layers < 1 || shape.kv_heads < 1 || shape.heads < 1 || shape.heads % shape.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model: expected at least one layer and query heads in a multiple of the KV heads, found ",
                     shape.layers, " layers, ", shape.heads, " query heads and ", shape.kv_heads, " KV heads"));
  }
  if (request.heads.layers != shape.layers || request.heads.kv_heads != shape.kv_heads) {
    return absl::InvalidArgumentError(absl::StrCat("head plan: expected ", shape.layers, " layers of ", shape.kv_heads,
                                                   " KV heads as the model has, found ", request.heads.layers, " of ",
                                                   request.heads.kv_heads));
  }
  DUO_CHECK_EQ(static_cast<int64_t>(request.heads.retrieval.size()), int64_t{shape.layers} * shape.kv_heads);
  if (request.world < 1)
    return absl::InvalidArgumentError(absl::StrCat("world: expected 1 or more, found ", request.world));
  if (!request.rank_weights.empty() && static_cast<int>(request.rank_weights.size()) != request.world) {
    return absl::InvalidArgumentError(absl::StrCat("--rank-weights: expected one for each of ", request.world,
                                                   " ranks, found ", request.rank_weights.size()));
  }
  for (const double weight : request.rank_weights) {
    if (!(weight > 0) || std::isinf(weight)) {
      return absl::InvalidArgumentError(absl::StrCat("--rank-weights: expected numbers above 0, found ", weight));
    }
  }
  const std::vector<double> shares = SharesOf(request);
  const std::vector<int64_t> vocab = RangeSizes(shape.vocab, shares, 1);
  for (int r = 0; r < request.world; ++r) {
    if (vocab[r] > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("--rank-weights: rank ", r, "'s share of ", shares[r],
                                                   " leaves it none of the vocabulary's ", shape.vocab,
                                                   " tokens; give it a larger weight, or start fewer ranks"));
  }
  return absl::OkStatus();
}

bool HasExpertsToPlace(const PartitionRequest& request) { return request.shape.experts > 0 && request.world > 1; }

ExpertColumns ColumnsOf(const PartitionRequest& request, bool whole) {
  if (!HasExpertsToPlace(request)) return {};
  const std::vector<double> shares = SharesOf(request);
  return whole ? WholeExpertColumns(request.shape, shares)
               : SplitExpertColumns(request.shape, shares, request.expert_unit);
}

// What a layer's experts take of a step and of reading, weighed.
double ExpertCost(const PartitionRequest& request, const CostModel& model, bool whole) {
  const ExpertColumns columns = ColumnsOf(request, whole);
  return FeedForwardSeconds(model, columns.step) + request.reads_per_step * ReadFeedForwardSeconds(model, columns.read);
}

double ReadSeconds(const CostModel& model, const std::vector<LayerHeads>& layers, const std::vector<double>& shares) {
  double seconds = 0;
  for (const LayerHeads& layer : layers) seconds += LayerReadSeconds(model, layer, shares);
  return seconds;
}

double StepSeconds(const CostModel& model, const std::vector<LayerHeads>& layers, const std::vector<double>& shares) {
  double seconds = 0;
  for (const LayerHeads& layer : layers) seconds += LayerSeconds(model, layer, shares);
  double head = 0;
  const std::vector<int64_t> rows = RangeSizes(model.shape.vocab, shares, 1);
  for (size_t r = 0; r < shares.size(); ++r) {
    head = std::max(head, VocabularySeconds(model, rows[r]) / (shares[r] * shares.size()));
  }
  return seconds + head;
}

}  // namespace

const char* Name(Strategy strategy) {
  switch (strategy) {
    case Strategy::kAuto:
      return "auto";
    case Strategy::kContiguous:
      return "contiguous";
    case Strategy::kHeads:
      return "heads";
    case Strategy::kSplit:
      return "split";
  }
  return "?";
}

absl::StatusOr<Strategy> ParseStrategy(std::string_view name) {
  for (const Strategy s : {Strategy::kAuto, Strategy::kContiguous, Strategy::kHeads, Strategy::kSplit}) {
    if (name == Name(s)) return s;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--strategy: expected auto, contiguous, heads or split, found '", std::string(name), "'"));
}

double RetrievalLoad(const RankHeads& heads) {
  double load = static_cast<double>(heads.whole.size());
  for (const SplitPiece& piece : heads.split) load += static_cast<double>(piece.last - piece.first) / piece.of;
  return load;
}

HeadLoad LoadOf(const RankHeads& heads) {
  HeadLoad load;
  load.kv_heads = static_cast<int>(heads.whole.size() + heads.split.size() + heads.streaming.size());
  load.pieces = static_cast<int>(heads.split.size());
  load.whole = static_cast<double>(heads.whole.size());
  load.split = RetrievalLoad(heads) - load.whole;
  load.streaming = static_cast<int>(heads.streaming.size());
  return load;
}

std::vector<int> SplitHeads(const std::vector<RankHeads>& layer) {
  std::vector<int> heads;
  for (const RankHeads& rank : layer) {
    for (const SplitPiece& piece : rank.split) heads.push_back(piece.head);
  }
  std::sort(heads.begin(), heads.end());
  heads.erase(std::unique(heads.begin(), heads.end()), heads.end());
  return heads;
}

int ChunkOwner(const Partition& partition, int layer, int head) {
  int largest = 0;
  std::vector<int> holders;
  for (int r = 0; r < partition.world; ++r) {
    for (const SplitPiece& piece : partition.layers[layer][r].split) {
      if (piece.head != head || piece.last - piece.first < largest) continue;
      if (piece.last - piece.first > largest) holders.clear();
      largest = piece.last - piece.first;
      holders.push_back(r);
    }
  }
  DUO_CHECK_MSG(!holders.empty(), "not a split head");
  return holders[layer % holders.size()];
}

namespace {

// Without what experts cost.
CostModel PlainCostModel(const PartitionRequest& request) {
  CostModel model;
  model.shape = request.shape;
  model.context = request.context;
  model.kv_token_bytes = request.kv_token_bytes;
  model.weight_bits = request.weight_bits;
  model.ring_tokens = RingSlots(request.heads.sink, request.heads.recent);
  model.rates = request.rates;
  model.hosts = request.hosts;
  return model;
}

bool PlacesExpertsWhole(const PartitionRequest& request) {
  if (!HasExpertsToPlace(request) || request.experts == ExpertPlacement::kSplit) return false;
  if (request.experts == ExpertPlacement::kWhole) return true;
  const CostModel model = PlainCostModel(request);
  return ExpertCost(request, model, true) < ExpertCost(request, model, false);
}

}  // namespace

CostModel MakeCostModel(const PartitionRequest& request) {
  CostModel model = PlainCostModel(request);
  model.experts = ColumnsOf(request, PlacesExpertsWhole(request));
  return model;
}

double LayerSeconds(const CostModel& model, const std::vector<RankHeads>& layer, const std::vector<double>& shares) {
  const int world = static_cast<int>(layer.size());
  const bool split = std::any_of(layer.begin(), layer.end(), [](const RankHeads& rank) { return !rank.split.empty(); });
  double attention = 0, feed_forward = 0;
  const std::vector<int64_t> columns = RangeSizes(model.shape.active_intermediate(), shares, 1);
  for (int r = 0; r < world; ++r) {
    const double speed = shares[r] * world;  // a rank of twice the mean weight is twice as fast
    attention = std::max(attention, AttentionSeconds(model, LoadOf(layer[r])) / speed);
    feed_forward = std::max(feed_forward, FeedForwardSeconds(model, static_cast<double>(columns[r])) / speed);
  }
  if (model.experts.step > 0) feed_forward = FeedForwardSeconds(model, model.experts.step);
  // The exchange of split heads' lse is on the same stream as the attention: nothing hides it.
  const double exchange = split ? MessageSeconds(model, world) : 0;
  return attention + exchange + feed_forward + FixedSeconds(model) + 2 * AllReduceSeconds(model, world);
}

double LayerReadSeconds(const CostModel& model, const std::vector<RankHeads>& layer,
                        const std::vector<double>& shares) {
  const int world = static_cast<int>(layer.size());
  double attention = 0, feed_forward = 0;
  const std::vector<int64_t> columns = RangeSizes(model.shape.active_intermediate(), shares, 1);
  for (int r = 0; r < world; ++r) {
    const double speed = shares[r] * world;
    attention = std::max(attention, ReadAttentionSeconds(model, LoadOf(layer[r])) / speed);
    feed_forward = std::max(feed_forward, ReadFeedForwardSeconds(model, static_cast<double>(columns[r])) / speed);
  }
  if (model.experts.read > 0) feed_forward = ReadFeedForwardSeconds(model, model.experts.read);
  return attention + feed_forward + ReadFixedSeconds(model, world);
}

double ReadsPerStep(int64_t context) { return context > 0 ? 1 / (kWrittenPerToken * static_cast<double>(context)) : 0; }

absl::StatusOr<Partition> MakePartition(const PartitionRequest& request) {
  if (absl::Status status = Validate(request); !status.ok()) return status;
  Partition partition;
  partition.strategy = request.strategy;
  partition.world = request.world;
  partition.shares = SharesOf(request);

  const CostModel model = MakeCostModel(request);
  const std::vector<double>& shares = partition.shares;
  const auto place = [&](Strategy strategy) {
    return PlaceHeads(model, request.heads, shares, strategy, request.reads_per_step);
  };
  const std::vector<LayerHeads> naive = place(Strategy::kContiguous), heads = place(Strategy::kHeads);
  const auto take = [&](std::vector<LayerHeads> layers) {
    partition.step_seconds = StepSeconds(model, layers, shares);
    partition.read_seconds = ReadSeconds(model, layers, shares);
    partition.layers = std::move(layers);
  };
  const auto cost = [&](double step, double read) { return step + request.reads_per_step * read; };
  take(place(request.strategy));
  if (request.strategy == Strategy::kAuto) {
    // With unequal weights the layers placed so far break ties, and a tie broken otherwise may cost more. Keep the
    // promise.
    const std::vector<LayerHeads> split = place(Strategy::kSplit);
    for (const std::vector<LayerHeads>* layers : {&split, &heads, &naive}) {
      if (cost(StepSeconds(model, *layers, shares), ReadSeconds(model, *layers, shares)) <
          cost(partition.step_seconds, partition.read_seconds)) {
        take(*layers);
      }
    }
  }

  partition.whole_experts = PlacesExpertsWhole(request);
  if (HasExpertsToPlace(request)) {
    CostModel other = model;
    for (const bool whole : {false, true}) {
      other.experts = ColumnsOf(request, whole);
      (whole ? partition.with_whole_experts : partition.with_split_experts) = {
          StepSeconds(other, partition.layers, shares), ReadSeconds(other, partition.layers, shares)};
    }
  }

  int64_t retrieval_heads = 0;
  for (const uint8_t retrieval : request.heads.retrieval) retrieval_heads += retrieval != 0;
  partition.balance.time = TimeBalance(partition.layers, shares, retrieval_heads);
  partition.balance.memory = MemoryBalance(partition.layers, shares);
  partition.balance.naive_time = TimeBalance(naive, shares, retrieval_heads);
  partition.balance.naive_memory = MemoryBalance(naive, shares);
  partition.balance.heads_time = TimeBalance(heads, shares, retrieval_heads);
  return partition;
}

std::vector<Strategy> ReadingOrder() {
  return {Strategy::kContiguous, Strategy::kHeads, Strategy::kSplit, Strategy::kAuto};
}

absl::StatusOr<std::vector<Partition>> AllStrategies(const PartitionRequest& request) {
  std::vector<Strategy> order = ReadingOrder();
  std::stable_partition(order.begin(), order.end(), [&](Strategy s) { return s == request.strategy; });
  std::vector<Partition> partitions;
  for (const Strategy strategy : order) {
    PartitionRequest one = request;
    one.strategy = strategy;
    absl::StatusOr<Partition> partition = MakePartition(one);
    if (!partition.ok()) return partition.status();
    partitions.push_back(*std::move(partition));
  }
  return partitions;
}

}  // namespace duo
