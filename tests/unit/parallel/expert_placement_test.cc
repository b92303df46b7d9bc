#include "parallel/expert_placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "parallel/partition.h"
#include "parallel/shard.h"

namespace duo {
namespace {

// Every set of `chosen` experts, counted.
double MostChosenByCounting(int chosen, const std::vector<int64_t>& held, const std::vector<double>& speeds) {
  std::vector<int> rank_of;
  for (size_t r = 0; r < held.size(); ++r) rank_of.insert(rank_of.end(), held[r], static_cast<int>(r));
  double sum = 0;
  int64_t sets = 0;
  for (uint32_t set = 0; set < uint32_t{1} << rank_of.size(); ++set) {
    if (std::popcount(set) != chosen) continue;
    std::vector<int> of_rank(held.size());
    for (size_t e = 0; e < rank_of.size(); ++e) of_rank[rank_of[e]] += set >> e & 1;
    double most = 0;
    for (size_t r = 0; r < held.size(); ++r) most = std::max(most, of_rank[r] / speeds[r]);
    sum += most;
    ++sets;
  }
  return sum / static_cast<double>(sets);
}

TEST(ExpertPlacement, ExpectsWhatCountingFinds) {
  struct Case {
    int chosen;
    std::vector<int64_t> held;
    std::vector<double> speeds;
  };
  for (const Case& c : std::vector<Case>{{2, {8}, {1}},
                                         {2, {4, 4}, {1, 1}},
                                         {3, {2, 2, 1}, {1, 1, 1}},
                                         {4, {6, 5, 5}, {1, 1, 1}},
                                         {8, {4, 0, 5, 3}, {1, 1, 1, 1}},
                                         {4, {6, 3, 3}, {1.5, 0.75, 0.75}},
                                         {3, {9, 2}, {1.2, 0.8}}}) {
    EXPECT_NEAR(ExpectedMostChosen(c.chosen, c.held, c.speeds), MostChosenByCounting(c.chosen, c.held, c.speeds), 1e-9)
        << c.chosen << " of " << std::accumulate(c.held.begin(), c.held.end(), int64_t{0});
  }
  // Of many experts: bounds that hold for any of them.
  const double most = ExpectedMostChosen(64, std::vector<int64_t>(16, 64), std::vector<double>(16, 1.0));
  EXPECT_GT(most, 4);
  EXPECT_LT(most, 64);
}

PartitionRequest RequestOf(int world, int64_t unit) {
  PartitionRequest request;  // Qwen3-30B-A3B's
  request.shape = {.layers = 48,
                   .hidden = 2048,
                   .intermediate = 6144,
                   .heads = 32,
                   .kv_heads = 4,
                   .head_dim = 128,
                   .vocab = 151936,
                   .experts_chosen = 8,
                   .expert_intermediate = 768,
                   .experts = 128};
  request.heads = FullPlan(48, 4);
  request.world = world;
  request.kv_token_bytes = 136;
  request.weight_bits = 4;
  request.expert_unit = unit;
  request.reads_per_step = ReadsPerStep(request.context);
  return request;
}

// By hand: of 8 of 128 experts on two ranks the busier has 5.06; where columns cannot be cut evenly that may be less.
TEST(ExpertPlacement, AutoTakesWhatCostsLess) {
  for (const auto& [world, unit, whole] : {std::tuple(2, 128, false), {2, 256, true}, {8, 32, false}, {8, 256, true}}) {
    SCOPED_TRACE(testing::Message() << world << " ranks, cut at " << unit);
    PartitionRequest request = RequestOf(world, unit);
    const Partition chosen = *MakePartition(request);
    EXPECT_EQ(chosen.whole_experts, whole);
    const auto cost = [&](const ModelledSeconds& of) { return of.step + request.reads_per_step * of.read; };
    EXPECT_EQ(cost(chosen.with_whole_experts) < cost(chosen.with_split_experts), whole);
    EXPECT_DOUBLE_EQ(chosen.step_seconds, (whole ? chosen.with_whole_experts : chosen.with_split_experts).step);
    EXPECT_DOUBLE_EQ(chosen.read_seconds, (whole ? chosen.with_whole_experts : chosen.with_split_experts).read);
    for (const ExpertPlacement asked : {ExpertPlacement::kSplit, ExpertPlacement::kWhole}) {
      request.experts = asked;
      const Partition other = *MakePartition(request);
      EXPECT_EQ(other.whole_experts, asked == ExpertPlacement::kWhole);
      EXPECT_DOUBLE_EQ(other.with_whole_experts.step, chosen.with_whole_experts.step);
    }
  }
  PartitionRequest request = RequestOf(2, 128);
  EXPECT_NEAR(WholeExpertColumns(request.shape, {0.5, 0.5}).step / 768, 5.06, 0.01);
  EXPECT_EQ(WholeExpertColumns(request.shape, {0.5, 0.5}).read, 4 * 768);
  EXPECT_EQ(SplitExpertColumns(request.shape, {0.5, 0.5}, 256).step, 8 * 512);
  request = RequestOf(1, 1);
  request.experts = ExpertPlacement::kWhole;
  EXPECT_FALSE(MakePartition(request)->whole_experts);  // nothing to deal out
  EXPECT_EQ(MakePartition(request)->with_whole_experts.step, 0);
}

// tests/bench/results/h200_experts.json: int4 weights and cache, 8,000 tokens, one GPU, and a rank's share of two.
TEST(ExpertPlacement, AddsUpToWhatAMixturesStepsTook) {
  for (const auto& [world, seconds] : {std::pair(1, 2.636e-3), {2, 2.464e-3}}) {
    PartitionRequest request = RequestOf(world, 128);
    request.context = 8000;
    request.strategy = Strategy::kHeads;
    request.experts = ExpertPlacement::kSplit;
    request.rates = RatesOfGpu("NVIDIA H200");
    request.rates.message_seconds = 0;  // nobody was waited for
    EXPECT_NEAR(MakePartition(request)->step_seconds / seconds, 1, 0.05) << world;
  }
}

TEST(ExpertPlacement, RanksHoldEveryWholeExpertOnce) {
  for (const int world : {2, 3, 7, 200}) {
    PartitionRequest request = RequestOf(world, 1);
    request.experts = ExpertPlacement::kWhole;
    if (world == 3) request.rank_weights = {1, 5, 2};
    const Partition partition = *MakePartition(request);
    int64_t next = 0;
    for (int r = 0; r < world; ++r) {
      const RankShard shard = MakeShard(partition, request.shape, r, 1, 1, {32, 1});
      EXPECT_TRUE(shard.whole_experts);
      EXPECT_EQ(shard.experts.begin, next);
      EXPECT_EQ(shard.expert, (Range{0, 768}));
      EXPECT_NEAR(static_cast<double>(shard.experts.size()), 128 * partition.shares[r], 1);
      next = shard.experts.end;
    }
    EXPECT_EQ(next, 128);
  }
}

TEST(ExpertPlacement, HasNames) {
  for (const ExpertPlacement p : {ExpertPlacement::kAuto, ExpertPlacement::kSplit, ExpertPlacement::kWhole}) {
    EXPECT_EQ(*ParseExpertPlacement(Name(p)), p);
  }
  EXPECT_FALSE(ParseExpertPlacement("all").ok());
}

}  // namespace
}  // namespace duo
