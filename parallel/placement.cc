#include "parallel/placement.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace duo {
namespace {

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

  LayerHeads Contiguous(int l) const {
    const int64_t ranks = world(), heads = plan_.kv_heads;
    LayerHeads layer(world());
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t first = h * ranks / heads, last = std::max(first + 1, (h + 1) * ranks / heads);
      for (int64_t r = first; r < last; ++r) (IsRetrieval(l, h) ? layer[r].whole : layer[r].streaming).push_back(h);
    }
    return layer;
  }

  LayerHeads Heads(int l) const {
    LayerHeads layer(world());
    std::vector<int> count(world());
    for (const int head : Retrieval(l)) {
      const int r = Least([&](int rank) { return (count[rank] + 1) / shares_[rank]; },
                          [&](int rank) { return (kv_[rank] + count[rank]) / shares_[rank]; }, l);
      layer[r].whole.push_back(head);
      ++count[r];
    }
    PlaceStreaming(l, layer);
    // Filling up greedily is the best there is but for odd weights; never let it lose to the naive placement.
    LayerHeads naive = Contiguous(l);
    DropCopies(naive);
    const bool naive_wins = LayerSeconds(model_, naive, shares_) < LayerSeconds(model_, layer, shares_);
    return naive_wins ? naive : layer;
  }

  LayerHeads Split(int l) const {
    LayerHeads layer(world());
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
  void Take(const LayerHeads& layer) {
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
    double least = cost(best);
    for (int i = 1; i < world(); ++i) {
      const int rank = Rotated(layer, i);
      const double one = cost(rank), slack = 1e-9 * std::abs(least);
      if (one > least + slack || (one >= least - slack && then(rank) >= then(best) - 1e-9)) continue;
      best = rank;
      least = one;
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
  void PlaceStreaming(int l, LayerHeads& layer) const {
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

  void DropCopies(LayerHeads& layer) const {
    std::vector<uint8_t> whole(plan_.kv_heads), streaming(plan_.kv_heads);  // that an earlier rank holds
    const auto drop = [](std::vector<int>& from, std::vector<uint8_t>& held) {
      std::erase_if(from, [&](int h) { return std::exchange(held[h], 1) != 0; });
    };
    for (RankHeads& rank : layer) {
      drop(rank.whole, whole);
      drop(rank.streaming, streaming);
    }
  }

  const CostModel& model_;
  const HeadPlan& plan_;
  const std::vector<double>& shares_;
  bool equal_;
  std::vector<double> kv_;     // [rank]: retrieval heads' worth of KV so far
  std::vector<double> heads_;  // [rank]: heads of weights so far
};

}  // namespace

std::vector<LayerHeads> PlaceHeads(const CostModel& model, const HeadPlan& plan, const std::vector<double>& shares,
                                   Strategy strategy, double reads_per_step) {
  Placer placer(model, plan, shares);
  const auto cost = [&](const LayerHeads& layer) {
    return LayerSeconds(model, layer, shares) + reads_per_step * LayerReadSeconds(model, layer, shares);
  };
  std::vector<LayerHeads> layers;
  for (int l = 0; l < plan.layers; ++l) {
    LayerHeads layer;
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
        LayerHeads split = placer.Split(l);
        if (cost(split) < cost(layer)) layer = std::move(split);
        break;
      }
    }
    placer.Take(layer);
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace duo
