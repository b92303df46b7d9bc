#include "parallel/partition.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "attn_patterns/head_plan.h"
#include "tests/support/test_scale.h"
#include "tests/unit/published_heads.h"

namespace duo {
namespace {

// Sizes of the two families that the published patterns are for; the widths only matter to the cost model.
ModelShape ShapeOf(const HeadPlan& plan) {
  return {.layers = plan.layers,
          .hidden = 4096,
          .intermediate = 14336,
          .heads = 32,
          .kv_heads = plan.kv_heads,
          .head_dim = 128,
          .vocab = 128256};
}

PartitionRequest RequestOf(const HeadPlan& plan, int world, Strategy strategy) {
  PartitionRequest request;
  request.shape = ShapeOf(plan);
  request.heads = plan;
  request.world = world;
  request.kv_token_bytes = 4 * 128;
  request.strategy = strategy;
  return request;
}

Partition Make(const PartitionRequest& request) {
  absl::StatusOr<Partition> partition = MakePartition(request);
  EXPECT_TRUE(partition.ok()) << partition.status();
  return *std::move(partition);
}

HeadPlan RandomPlan(std::mt19937& rng, int layers, int kv_heads, double density) {
  HeadPlan plan;
  plan.layers = layers;
  plan.kv_heads = kv_heads;
  std::bernoulli_distribution retrieval(density);
  for (int i = 0; i < layers * kv_heads; ++i) plan.retrieval.push_back(retrieval(rng));
  return plan;
}

// Every slot of every retrieval head on exactly one rank, every streaming head on exactly one; at most two pieces a
// rank.
void ExpectCoversOnce(const Partition& partition, const HeadPlan& plan) {
  ASSERT_EQ(partition.layers.size(), plan.layers);
  for (int l = 0; l < plan.layers; ++l) {
    ASSERT_EQ(partition.layers[l].size(), partition.world);
    std::map<int, std::vector<int>> slots;  // head -> how often each of its slots is held
    std::multiset<int> whole, streaming;
    for (const RankHeads& rank : partition.layers[l]) {
      EXPECT_LE(rank.split.size(), 2u);
      whole.insert(rank.whole.begin(), rank.whole.end());
      streaming.insert(rank.streaming.begin(), rank.streaming.end());
      for (const SplitPiece& piece : rank.split) {
        ASSERT_GE(piece.first, 0);
        ASSERT_LT(piece.first, piece.last);
        ASSERT_LE(piece.last, piece.of);
        std::vector<int>& held = slots[piece.head];
        if (held.empty()) held.resize(piece.of);
        ASSERT_EQ(held.size(), piece.of);
        for (int s = piece.first; s < piece.last; ++s) ++held[s];
      }
    }
    for (int h = 0; h < plan.kv_heads; ++h) {
      if (!plan.is_retrieval(l, h)) {
        EXPECT_EQ(streaming.count(h), 1u) << "layer " << l << " head " << h;
        EXPECT_EQ(whole.count(h) + slots.count(h), 0u);
        continue;
      }
      EXPECT_EQ(streaming.count(h), 0u);
      if (slots.count(h) != 0) {
        EXPECT_EQ(whole.count(h), 0u);
        EXPECT_EQ(slots[h], std::vector<int>(slots[h].size(), 1)) << "layer " << l << " head " << h;
      } else {
        EXPECT_EQ(whole.count(h), 1u) << "layer " << l << " head " << h;
      }
    }
  }
}

TEST(Partition, GivesEverythingWholeToASingleRank) {
  std::mt19937 rng(1);
  const HeadPlan plan = RandomPlan(rng, 5, 3, 0.5);
  for (const Strategy strategy : {Strategy::kAuto, Strategy::kContiguous, Strategy::kHeads, Strategy::kSplit}) {
    PartitionRequest request = RequestOf(plan, 1, strategy);
    request.shape.heads = 6;
    const Partition partition = Make(request);
    ExpectCoversOnce(partition, plan);
    for (const std::vector<RankHeads>& layer : partition.layers) EXPECT_TRUE(layer[0].split.empty());
    EXPECT_DOUBLE_EQ(partition.balance.time, 1);
    EXPECT_DOUBLE_EQ(partition.balance.memory, 1);
  }
}

TEST(Partition, CoversEveryHeadOnceInAnyWorld) {
  std::mt19937 rng(2);
  for (int trial = 0; trial < Scaled(300); ++trial) {
    const int kv_heads = 1 + static_cast<int>(rng() % 12), world = 1 + static_cast<int>(rng() % 20);
    const HeadPlan plan = RandomPlan(rng, 1 + static_cast<int>(rng() % 6), kv_heads, (rng() % 5) / 4.0);
    for (const Strategy strategy : {Strategy::kAuto, Strategy::kHeads, Strategy::kSplit}) {
      PartitionRequest request = RequestOf(plan, world, strategy);
      request.shape.heads = kv_heads * 3;
      request.context = 1 << (rng() % 21);
      if (trial % 3 == 0) {
        for (int r = 0; r < world; ++r) request.rank_weights.push_back(1 + rng() % 4);
      }
      ExpectCoversOnce(Make(request), plan);
      if (HasFailure()) FAIL() << "world " << world << " strategy " << Name(strategy);
    }
  }
}

TEST(Partition, SplitsTheLoadExactlyAmongEqualRanks) {
  std::mt19937 rng(3);
  for (int trial = 0; trial < Scaled(100); ++trial) {
    const int kv_heads = 1 + static_cast<int>(rng() % 9), world = 2 + static_cast<int>(rng() % 15);
    const HeadPlan plan = RandomPlan(rng, 4, kv_heads, 0.5);
    PartitionRequest request = RequestOf(plan, world, Strategy::kSplit);
    request.shape.heads = kv_heads;
    for (const std::vector<RankHeads>& layer : Make(request).layers) {
      for (const RankHeads& rank : layer) EXPECT_NEAR(RetrievalLoad(rank), RetrievalLoad(layer[0]), 1e-12);
    }
  }
}

// floor(hG/H), and with more ranks than heads a copy on each of floor(hG/H) .. floor((h+1)G/H) - 1.
TEST(Partition, PlacesContiguousHeadsByTheFormula) {
  std::mt19937 rng(4);
  for (const int kv_heads : {1, 3, 8}) {
    for (const int world : {1, 2, 3, 5, 8, 16}) {
      const HeadPlan plan = RandomPlan(rng, 2, kv_heads, 0.5);
      PartitionRequest request = RequestOf(plan, world, Strategy::kContiguous);
      request.shape.heads = kv_heads;
      const Partition partition = Make(request);
      for (int l = 0; l < 2; ++l) {
        for (int r = 0; r < world; ++r) {
          std::set<int> expected, held;
          for (int h = 0; h < kv_heads; ++h) {
            const int first = h * world / kv_heads, last = std::max(first, (h + 1) * world / kv_heads - 1);
            if (r >= first && r <= last) expected.insert(h);
          }
          const RankHeads& rank = partition.layers[l][r];
          held.insert(rank.whole.begin(), rank.whole.end());
          held.insert(rank.streaming.begin(), rank.streaming.end());
          EXPECT_EQ(held, expected) << kv_heads << " heads, rank " << r << " of " << world;
        }
      }
    }
  }
}

TEST(Partition, KeepsSharesWithinOneSlotOfTheWeights) {
  std::mt19937 rng(5);
  const HeadPlan plan = RandomPlan(rng, 32, 8, 0.5);
  PartitionRequest request = RequestOf(plan, 3, Strategy::kSplit);
  request.rank_weights = {2, 1, 1};
  const Partition partition = Make(request);
  ExpectCoversOnce(partition, plan);
  for (int l = 0; l < plan.layers; ++l) {
    for (int r = 0; r < 3; ++r) {
      const double share = request.rank_weights[r] / 4 * plan.retrieval_heads(l);
      EXPECT_LE(std::abs(RetrievalLoad(partition.layers[l][r]) - share), 1.0 / 64 + 1e-12) << "layer " << l;
      for (const SplitPiece& piece : partition.layers[l][r].split) EXPECT_EQ(piece.of, 64);
    }
  }
}

TEST(Partition, NeverChoosesWorseThanTheOtherStrategies) {
  std::mt19937 rng(7);
  for (int trial = 0; trial < Scaled(200); ++trial) {
    const int kv_heads = 1 + static_cast<int>(rng() % 9), world = 1 + static_cast<int>(rng() % 10);
    PartitionRequest request = RequestOf(RandomPlan(rng, 6, kv_heads, (rng() % 5) / 4.0), world, Strategy::kAuto);
    request.shape.heads = kv_heads * 4;
    request.context = int64_t{100} << (rng() % 16);
    if (trial % 2 == 0) {
      for (int r = 0; r < world; ++r) request.rank_weights.push_back(1 + rng() % 5);
    }
    const std::vector<Partition> all = *AllStrategies(request);
    ASSERT_EQ(all.size(), 4u);
    for (const Partition& other : all) EXPECT_LE(all[0].step_seconds, other.step_seconds * (1 + 1e-12));
    request.reads_per_step = ReadsPerStep(request.context);
    const auto cost = [&](const Partition& p) { return p.step_seconds + request.reads_per_step * p.read_seconds; };
    const std::vector<Partition> weighed = *AllStrategies(request);
    for (const Partition& other : weighed) EXPECT_LE(cost(weighed[0]), cost(other) * (1 + 1e-12));
  }
}

// With int4 KV two ranks save a step nothing by splitting, but reading the document is then even.
TEST(Partition, SplitsForTheSakeOfReading) {
  HeadPlan plan = StreamingPlan(32, 8);
  for (int l = 0; l < 32; ++l) {
    for (int h = 0; h < 3 + 2 * (l % 3); ++h) plan.retrieval[l * 8 + h] = 1;
  }
  PartitionRequest request = RequestOf(plan, 2, Strategy::kAuto);
  request.kv_token_bytes = 136;
  request.context = 800'000;
  const Partition steps = Make(request);
  request.reads_per_step = ReadsPerStep(request.context);
  EXPECT_DOUBLE_EQ(request.reads_per_step, 1.25e-4);
  const Partition both = Make(request);
  int split = 0;
  for (int l = 0; l < 32; ++l) {
    EXPECT_TRUE(SplitHeads(steps.layers[l]).empty()) << l;
    split += !SplitHeads(both.layers[l]).empty();
  }
  EXPECT_EQ(split, 32);
  EXPECT_LT(both.read_seconds, steps.read_seconds);
  EXPECT_GT(both.step_seconds, steps.step_seconds);
}

// At short contexts the exchange of a split head costs more than it saves; at long ones it never does.
TEST(Partition, SplitsOnlyWhereThatPays) {
  HeadPlan plan = StreamingPlan(4, 8);
  for (int l = 0; l < 4; ++l) plan.retrieval[l * 8 + l] = 1;
  for (const auto& [context, splits] : {std::pair{1000, false}, std::pair{1'000'000, true}}) {
    PartitionRequest request = RequestOf(plan, 8, Strategy::kAuto);
    request.context = context;
    for (const std::vector<RankHeads>& layer : Make(request).layers) EXPECT_EQ(!SplitHeads(layer).empty(), splits);
  }
}

// Moving one of the busiest rank's streaming heads to any other rank would make that one the busiest, by no less.
TEST(Partition, EvensOutWorkWithStreamingHeads) {
  std::mt19937 rng(8);
  const HeadPlan plan = RandomPlan(rng, 32, 8, 0.5);
  for (const int world : {2, 3, 4}) {
    const PartitionRequest request = RequestOf(plan, world, Strategy::kSplit);
    const CostModel model = MakeCostModel(request);
    int moves = 0;
    for (const std::vector<RankHeads>& layer : Make(request).layers) {
      const auto seconds = [&](const RankHeads& rank) { return AttentionSeconds(model, LoadOf(rank)); };
      const RankHeads& busiest = *std::max_element(
          layer.begin(), layer.end(), [&](const RankHeads& a, const RankHeads& b) { return seconds(a) < seconds(b); });
      if (busiest.streaming.empty()) continue;
      for (const RankHeads& rank : layer) {
        if (&rank == &busiest) continue;
        HeadLoad more = LoadOf(rank);
        ++more.kv_heads;
        ++more.streaming;
        EXPECT_GE(AttentionSeconds(model, more), seconds(busiest) * (1 - 1e-9));
        ++moves;
      }
    }
    EXPECT_GT(moves, 0) << world;
  }
}

TEST(Partition, SharesTheChunkOwnersRole) {
  HeadPlan plan = StreamingPlan(8, 8);
  for (int l = 0; l < 8; ++l) plan.retrieval[l * 8] = 1;  // one a layer: four equal pieces
  const Partition partition = Make(RequestOf(plan, 4, Strategy::kSplit));
  std::vector<int> owned(4);
  for (int l = 0; l < 8; ++l) {
    EXPECT_EQ(SplitHeads(partition.layers[l]), std::vector<int>{0});
    ++owned[ChunkOwner(partition, l, 0)];
  }
  EXPECT_EQ(owned, std::vector<int>(4, 2));

  PartitionRequest weighted = RequestOf(plan, 3, Strategy::kSplit);
  weighted.rank_weights = {1, 3, 1};
  const Partition uneven = Make(weighted);
  for (int l = 0; l < 8; ++l) EXPECT_EQ(ChunkOwner(uneven, l, 0), 1);
}

TEST(Partition, RefusesContradictorySizes) {
  const HeadPlan plan = FullPlan(2, 4);
  const auto message = [](const PartitionRequest& request) {
    return std::string(MakePartition(request).status().message());
  };
  PartitionRequest request = RequestOf(plan, 2, Strategy::kSplit);
  request.rank_weights = {1, 2, 3};
  EXPECT_EQ(message(request), "--rank-weights: expected one for each of 2 ranks, found 3");
  request.rank_weights = {1, 0};
  EXPECT_EQ(message(request), "--rank-weights: expected numbers above 0, found 0");
  request = RequestOf(plan, 0, Strategy::kSplit);
  EXPECT_EQ(message(request), "world: expected 1 or more, found 0");
  request = RequestOf(plan, 2, Strategy::kSplit);
  request.shape.kv_heads = 8;
  EXPECT_EQ(message(request), "head plan: expected 2 layers of 8 KV heads as the model has, found 2 of 4");
  EXPECT_FALSE(ParseStrategy("best").ok());
  EXPECT_EQ(*ParseStrategy("heads"), Strategy::kHeads);
}

// --- The patterns that the paper's authors published; test data that lives beside the source tree.

struct Published {
  const char* name;
  bool ties;  // at the cut, which the reference breaks by another rule than PlanBySparsity

  // At sparsity 0.5 on 2, 4 and 8 ranks, to two decimals.
  double naive_time[3], naive_memory[3], heads_time[3];
};

constexpr Published kPublished[] = {
    {"Llama-2-7B-32K-Instruct", false, {1.13, 1.35, 1.66}, {1.07, 1.09, 1.14}, {1.03, 1.09, 1.25}},
    {"Llama-3-8B-Instruct-Gradient-1048k", true, {1.27, 1.62, 2.00}, {1.09, 1.09, 1.31}, {1.11, 1.44, 2.00}},
    {"Llama-3-8B-Instruct-Gradient-4194k", true, {1.30, 1.69, 1.94}, {1.02, 1.06, 1.25}, {1.14, 1.47, 1.94}},
    {"Meta-Llama-3.1-8B-Instruct", false, {1.27, 1.56, 2.00}, {1.05, 1.06, 1.38}, {1.11, 1.38, 2.00}},
    {"Mistral-7B-Instruct-v0.2", true, {1.28, 1.72, 2.00}, {1.05, 1.06, 1.12}, {1.12, 1.34, 2.00}},
    {"Mistral-7B-Instruct-v0.3", false, {1.31, 1.72, 2.00}, {1.06, 1.12, 1.12}, {1.14, 1.41, 2.00}},
};

class PublishedPattern : public testing::TestWithParam<Published> {};

TEST_P(PublishedPattern, MatchesTheReferenceForWholeHeads) {
  const HeadPlan plan = PublishedHeads(GetParam().name, 0.5);
  const Published& expected = GetParam();
  for (int i = 0; i < 3; ++i) {
    const int world = 2 << i;
    const Balance balance = Make(RequestOf(plan, world, Strategy::kSplit)).balance;
    // Half a unit of the last decimal; another choice among ties moves the busiest rank by one head in one layer, which
    // is 8 / 128 on 8 ranks and less on fewer.
    const double tolerance = 0.005 + (expected.ties ? 8.0 / 128 : 0) + 1e-9;
    EXPECT_NEAR(balance.naive_time, expected.naive_time[i], tolerance) << world << " ranks";
    EXPECT_NEAR(balance.naive_memory, expected.naive_memory[i], tolerance) << world << " ranks";
    EXPECT_NEAR(balance.heads_time, expected.heads_time[i], tolerance) << world << " ranks";
  }
}

TEST_P(PublishedPattern, IsBalancedBySplittingAndCheapestByAuto) {
  for (const double sparsity : {0.5, 0.75}) {
    const HeadPlan plan = PublishedHeads(GetParam().name, sparsity);
    for (const int world : {2, 3, 4, 8, 16}) {
      const std::vector<Partition> all = *AllStrategies(RequestOf(plan, world, Strategy::kAuto));
      for (const Partition& other : all) {
        EXPECT_LE(all[0].step_seconds, other.step_seconds * (1 + 1e-12)) << Name(other.strategy);
        if (other.strategy == Strategy::kContiguous) continue;
        ExpectCoversOnce(other, plan);
        // Where heads stay whole, in every layer or (auto) in some, the busiest rank holds at most one more than the
        // mean.
        const double limit = other.strategy == Strategy::kSplit ? 1.02 : 1 + double(world) / plan.retrieval_heads();
        EXPECT_LE(other.balance.memory, limit) << Name(other.strategy) << " on " << world << " ranks";
        if (other.strategy == Strategy::kSplit) {
          EXPECT_LE(other.balance.time, 1.02);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, PublishedPattern, testing::ValuesIn(kPublished), [](const auto& info) {
  std::string name = info.param.name;
  std::erase_if(name, [](char c) { return !isalnum(c); });
  return name;
});

}  // namespace
}  // namespace duo
