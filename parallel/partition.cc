#include "parallel/partition.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/ring.h"
#include "parallel/shard.h"

namespace duo {
namespace {

using Layer = std::vector<RankHeads>;  // [rank]

constexpr int kWeightedSlots = 64;  // slots of a split head when ranks weigh differently

bool AllAlike(const std::vector<double>& shares) {
  return std::all_of(shares.begin(), shares.end(), [&](double s) { return s == shares[0]; });
}

// Places heads layer by layer, and remembers what the ranks hold so far, so that ties even out over the layers.
class Placer {
 public:
  Placer(const CostModel& model, const HeadPlan& plan, const std::vector<double>& shares)
      : model_(model),
        plan_(plan),
        shares_(shares),
        equal_(AllAlike(shares)),
        kv_(shares.size()),
        heads_(shares.size()) {}

  Layer Contiguous(int l) const {
    const int64_t ranks = world(), heads = plan_.kv_heads;
    Layer layer(world());
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t first = h * ranks / heads, last = std::max(first + 1, (h + 1) * ranks / heads);
      for (int64_t r = first; r < last; ++r) (IsRetrieval(l, h) ? layer[r].whole : layer[r].streaming).push_back(h);
    }
    return layer;
  }

  Layer Heads(int l) const {
    Layer layer(world());
    std::vector<int> count(world());
    for (const int head : Retrieval(l)) {
      const int r = Least([&](int rank) { return (count[rank] + 1) / shares_[rank]; },
                          [&](int rank) { return (kv_[rank] + count[rank]) / shares_[rank]; }, l);
      layer[r].whole.push_back(head);
      ++count[r];
    }
    PlaceStreaming(l, layer);
    // Filling up greedily is the best there is but for odd weights; never let it lose to the naive placement.
    Layer naive = Contiguous(l);
    DropCopies(naive);
    const bool naive_wins = LayerSeconds(model_, naive, shares_) < LayerSeconds(model_, layer, shares_);
    return naive_wins ? naive : layer;
  }

  Layer Split(int l) const {
    Layer layer(world());
    const std::vector<int> retrieval = Retrieval(l);
    const int ranks = world(), r = static_cast<int>(retrieval.size());
    // Equal ranks: whole heads first, the rest split into `ranks` slots. Else every head is laid out in 64 slots.
    const int whole = equal_ ? r / ranks * ranks : 0;
    for (int i = 0; i < whole; ++i) layer[Rotated(l, i % ranks)].whole.push_back(retrieval[i]);
    const int slots = equal_ ? ranks : kWeightedSlots, left = r - whole;
    double share = 0;
    int64_t begin = 0;
    for (int i = 0; i < ranks; ++i) {
      const int rank = Rotated(l, i);
      share += shares_[rank];
      const int64_t total = int64_t{left} * slots;
      const int64_t end = i + 1 == ranks ? total
                          : equal_       ? int64_t{left} * (i + 1)
                                         : std::llround(share * static_cast<double>(total));
      AddRun(layer[rank], retrieval.data() + whole, slots, begin, end);
      begin = end;
    }
    PlaceStreaming(l, layer);
    return layer;
  }

  // Call once the layer is chosen, and before the next one is placed.
  void Take(const Layer& layer) {
    for (int r = 0; r < world(); ++r) {
      kv_[r] += RetrievalLoad(layer[r]);
      heads_[r] += LoadOf(layer[r]).kv_heads;
    }
  }

 private:
  int world() const { return static_cast<int>(shares_.size()); }
  int Rotated(int layer, int i) const { return (i + layer) % world(); }
  bool IsRetrieval(int l, int64_t h) const { return plan_.retrieval[int64_t{l} * plan_.kv_heads + h] != 0; }

  std::vector<int> Retrieval(int l) const {
    std::vector<int> heads;
    for (int h = 0; h < plan_.kv_heads; ++h) {
      if (IsRetrieval(l, h)) heads.push_back(h);
    }
    return heads;
  }

  // The rank where `cost` is least; ties by `then`, then by a rank order that rotates over the layers.
  template <typename Cost, typename Then>
  int Least(const Cost& cost, const Then& then, int layer) const {
    int best = Rotated(layer, 0);
    for (int i = 1; i < world(); ++i) {
      const int rank = Rotated(layer, i);
      const double a = cost(rank), b = cost(best), slack = 1e-9 * std::abs(b);
      if (a < b - slack || (a <= b + slack && then(rank) < then(best) - 1e-9)) best = rank;
    }
    return best;
  }

  // One rank's run [begin, end) of slots over heads laid end to end.
  static void AddRun(RankHeads& rank, const int* heads, int slots, int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t head = begin / slots, stop = std::min(end, (head + 1) * slots);
      if (stop - begin == slots) {
        rank.whole.push_back(heads[head]);
      } else {
        rank.split.push_back(
            {heads[head], static_cast<int>(begin - head * slots), static_cast<int>(stop - head * slots), slots});
      }
      begin = stop;
    }
  }

  // Each to the rank that is then done first; ties to the one with fewer heads (of weights) in the layers so far.
  void PlaceStreaming(int l, Layer& layer) const {
    for (int h = 0; h < plan_.kv_heads; ++h) {
      if (IsRetrieval(l, h)) continue;
      const auto done = [&](int rank) {
        HeadLoad load = LoadOf(layer[rank]);
        ++load.kv_heads;
        ++load.streaming;
        return AttentionSeconds(model_, load) / shares_[rank];
      };
      const auto before = [&](int rank) { return (heads_[rank] + LoadOf(layer[rank]).kv_heads) / shares_[rank]; };
      layer[Least(done, before, l)].streaming.push_back(h);
    }
  }

  static void DropCopies(Layer& layer) {
    for (size_t r = 0; r < layer.size(); ++r) {
      for (size_t q = 0; q < r; ++q) {
        const auto drop = [](std::vector<int>& from, const std::vector<int>& held) {
          std::erase_if(from, [&](int h) { return std::count(held.begin(), held.end(), h) > 0; });
        };
        drop(layer[r].whole, layer[q].whole);
        drop(layer[r].streaming, layer[q].streaming);
      }
    }
  }

  const CostModel& model_;
  const HeadPlan& plan_;
  const std::vector<double>& shares_;
  bool equal_;
  std::vector<double> kv_;     // [rank]: retrieval heads' worth of KV so far
  std::vector<double> heads_;  // [rank]: heads of weights so far
};

double TimeBalance(const std::vector<Layer>& layers, const std::vector<double>& shares, int64_t retrieval_heads) {
  if (retrieval_heads == 0) return 1;
  double time = 0;
  for (const Layer& layer : layers) {
    double busiest = 0;
    for (size_t r = 0; r < layer.size(); ++r) busiest = std::max(busiest, RetrievalLoad(layer[r]) / shares[r]);
    time += busiest;
  }
  return time / retrieval_heads;
}

double MemoryBalance(const std::vector<Layer>& layers, const std::vector<double>& shares) {
  double busiest = 0, all = 0;
  for (size_t r = 0; r < shares.size(); ++r) {
    double held = 0;
    for (const Layer& layer : layers) held += RetrievalLoad(layer[r]);
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
    return absl::InvalidArgumentError(absl::StrCat("rank weights: expected one for each of ", request.world,
                                                   " ranks, found ", request.rank_weights.size()));
  }
  for (const double weight : request.rank_weights) {
    if (!(weight > 0) || std::isinf(weight)) {
      return absl::InvalidArgumentError(absl::StrCat("rank weights: expected numbers above 0, found ", weight));
    }
  }
  const std::vector<double> shares = SharesOf(request);
  for (int r = 0; r < request.world; ++r) {
    if (ProportionalRange(shape.vocab, shares, r, 1).size() > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("rank weights: rank ", r, "'s share of ", shares[r],
                                                   " leaves it none of the vocabulary's ", shape.vocab,
                                                   " tokens; give it a larger weight, or start fewer ranks"));
  }
  return absl::OkStatus();
}

std::vector<Layer> Place(const CostModel& model, const HeadPlan& plan, const std::vector<double>& shares,
                         Strategy strategy) {
  Placer placer(model, plan, shares);
  std::vector<Layer> layers;
  for (int l = 0; l < plan.layers; ++l) {
    Layer layer;
    switch (strategy) {
      case Strategy::kContiguous:
        layer = placer.Contiguous(l);
        break;
      case Strategy::kHeads:
        layer = placer.Heads(l);
        break;
      case Strategy::kSplit:
        layer = placer.Split(l);
        break;
      case Strategy::kAuto: {
        layer = placer.Heads(l);
        Layer split = placer.Split(l);
        if (LayerSeconds(model, split, shares) < LayerSeconds(model, layer, shares)) layer = std::move(split);
        break;
      }
    }
    placer.Take(layer);
    layers.push_back(std::move(layer));
  }
  return layers;
}

double StepSeconds(const CostModel& model, const std::vector<Layer>& layers, const std::vector<double>& shares) {
  double seconds = 0;
  for (const Layer& layer : layers) seconds += LayerSeconds(model, layer, shares);
  double head = 0;
  for (size_t r = 0; r < shares.size(); ++r) {
    const int64_t rows = ProportionalRange(model.shape.vocab, shares, static_cast<int>(r), 1).size();
    head = std::max(head, VocabularySeconds(model, rows) / (shares[r] * shares.size()));
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

CostModel MakeCostModel(const PartitionRequest& request) {
  CostModel model;
  model.shape = request.shape;
  model.context = request.context;
  model.kv_token_bytes = request.kv_token_bytes;
  model.weight_bits = request.weight_bits;
  model.ring_tokens = RingSlots(request.heads.sink, request.heads.recent);
  model.rates = request.rates;
  return model;
}

double LayerSeconds(const CostModel& model, const std::vector<RankHeads>& layer, const std::vector<double>& shares) {
  const int world = static_cast<int>(layer.size());
  const bool split = std::any_of(layer.begin(), layer.end(), [](const RankHeads& rank) { return !rank.split.empty(); });
  double attention = 0, feed_forward = 0;
  for (int r = 0; r < world; ++r) {
    const double speed = shares[r] * world;  // a rank of twice the mean weight is twice as fast
    attention = std::max(attention, AttentionSeconds(model, LoadOf(layer[r])) / speed);
    const int64_t columns = ProportionalRange(model.shape.intermediate, shares, r, 1).size();
    feed_forward = std::max(feed_forward, FeedForwardSeconds(model, columns) / speed);
  }
  // The exchange of split heads' lse is on the same stream as the attention: nothing hides it.
  const double exchange = split ? model.rates.message_seconds : 0;
  return attention + exchange + feed_forward + FixedSeconds(model) + 2 * AllReduceSeconds(model, world);
}

absl::StatusOr<Partition> MakePartition(const PartitionRequest& request) {
  if (absl::Status status = Validate(request); !status.ok()) return status;
  Partition partition;
  partition.strategy = request.strategy;
  partition.world = request.world;
  partition.shares = SharesOf(request);

  const CostModel model = MakeCostModel(request);
  const std::vector<double>& shares = partition.shares;
  const std::vector<Layer> naive = Place(model, request.heads, shares, Strategy::kContiguous);
  const std::vector<Layer> heads = Place(model, request.heads, shares, Strategy::kHeads);
  partition.layers = Place(model, request.heads, shares, request.strategy);
  partition.step_seconds = StepSeconds(model, partition.layers, shares);
  if (request.strategy == Strategy::kAuto) {
    // With unequal weights the layers placed so far break ties, and a tie broken otherwise may cost more. Keep the
    // promise.
    for (const Strategy other : {Strategy::kSplit, Strategy::kHeads, Strategy::kContiguous}) {
      std::vector<Layer> layers = Place(model, request.heads, shares, other);
      const double seconds = StepSeconds(model, layers, shares);
      if (seconds < partition.step_seconds) {
        partition.step_seconds = seconds;
        partition.layers = std::move(layers);
      }
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
