#include "attn_patterns/head_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/splitmix64.h"
#include "tests/unit/expect.h"

namespace duo {
namespace {

Pattern Make(int layers, int kv_heads, std::vector<double> gates) {
  Pattern pattern;
  pattern.layers = layers;
  pattern.kv_heads = kv_heads;
  pattern.gates = std::move(gates);
  pattern.sink = 16;
  pattern.recent = 32;
  return pattern;
}

TEST(HeadPlan, KeepsTheLargestGatesOfAllLayersTogether) {
  const Pattern pattern = Make(2, 3, {0.9, 0.1, 0.2, 0.8, 0.7, 0.3});
  const auto plan = PlanBySparsity(pattern, 0.5);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(Holds(plan->retrieval, 1, 0, 0, 1, 1, 0));
  EXPECT_EQ(plan->retrieval_heads(0), 1);
  EXPECT_EQ(plan->streaming_heads(1), 1);
  EXPECT_EQ(plan->retrieval_heads() + plan->streaming_heads(), 6);
  EXPECT_EQ(plan->sparsity(), 0.5);
  EXPECT_EQ(plan->sink, 16);
  EXPECT_EQ(plan->recent, 32);
}

TEST(HeadPlan, CountIsTheRoundedShare) {
  const Pattern pattern = Make(1, 7, {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7});
  for (const double sparsity : {0.0, 0.05, 0.0714, 0.0715, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0}) {
    const int expected = static_cast<int>(std::floor((1 - sparsity) * 7 + 0.5));
    EXPECT_EQ(PlanBySparsity(pattern, sparsity)->retrieval_heads(), expected) << sparsity;
  }
  EXPECT_EQ(PlanBySparsity(pattern, 0.5)->retrieval_heads(), 4);  // 3.5 rounds up: in favour of retrieval
}

TEST(HeadPlan, GatesOutsideZeroToOneAreClippedBeforeTheyAreCompared) {
  // -0.5 and 0 are the same gate after clipping, and so are 3 and 1: the tie rule decides, not the value.
  const Pattern clipped = Make(2, 2, {0, 0, 1, 1}), raw = Make(2, 2, {-0.5, 0, 1, 3});
  for (const double sparsity : {0.25, 0.75}) {
    EXPECT_EQ(PlanBySparsity(raw, sparsity)->retrieval, PlanBySparsity(clipped, sparsity)->retrieval);
  }
}

TEST(HeadPlan, TiesGoByTheHashOfLayerAndHead) {
  const int layers = 32, kv_heads = 8, n = layers * kv_heads;
  const Pattern pattern = Make(layers, kv_heads, std::vector<double>(n, 1.0));
  std::vector<std::pair<uint64_t, int>> order;
  for (int i = 0; i < n; ++i) order.emplace_back(SplitMix64(static_cast<uint64_t>(i)), i);
  std::sort(order.begin(), order.end());
  std::vector<uint8_t> expected(n, 0);
  for (int i = 0; i < n / 4; ++i) expected[order[i].second] = 1;
  const auto plan = PlanBySparsity(pattern, 0.75);
  EXPECT_EQ(plan->retrieval, expected);
  // Spread over the layers: 64 of 256 in 32 layers of 8, two a layer on average.
  for (int layer = 0; layer < layers; ++layer) EXPECT_LE(plan->retrieval_heads(layer), 6);
}

// The first outputs of the generator seeded with 0, as in its authors' reference code.
TEST(HeadPlan, SplitMixIsTheReferenceFunction) {
  EXPECT_EQ(SplitMix64(0), 0xe220a8397b1dcdafu);
  EXPECT_EQ(SplitMix64(0x9e3779b97f4a7c15u), 0x6e789e6aa1b965f4u);
}

TEST(HeadPlan, LessSparsityNeverDropsAHead) {
  std::mt19937_64 random(3);
  std::vector<double> gates(5 * 7);
  for (double& gate : gates) gate = static_cast<double>(random() % 8) / 4 - 0.5;  // many ties, some outside [0, 1]
  const Pattern pattern = Make(5, 7, gates);
  for (int i = 0; i < 35; ++i) {
    const auto more = PlanBySparsity(pattern, (i + 1) / 35.0), less = PlanBySparsity(pattern, i / 35.0);
    for (size_t j = 0; j < gates.size(); ++j) EXPECT_LE(more->retrieval[j], less->retrieval[j]);
  }
}

TEST(HeadPlan, ThresholdKeepsGatesAtAndAboveIt) {
  const Pattern pattern = Make(1, 5, {-0.1, 0.0, 0.5, 0.50001, 2.0});
  EXPECT_TRUE(Holds(PlanByThreshold(pattern, 0.5)->retrieval, 0, 0, 1, 1, 1));
  EXPECT_TRUE(Holds(PlanByThreshold(pattern, 0)->retrieval, 1, 1, 1, 1, 1));
  EXPECT_TRUE(Holds(PlanByThreshold(pattern, 1)->retrieval, 0, 0, 0, 0, 1));
}

TEST(HeadPlan, AllFullAndAllStreamingNeedNoPattern) {
  const HeadPlan full = FullPlan(3, 5), streaming = StreamingPlan(3, 5, 4, 8);
  EXPECT_EQ(full.retrieval_heads(), 15);
  EXPECT_EQ(full.sparsity(), 0);
  EXPECT_EQ(streaming.retrieval_heads(), 0);
  EXPECT_EQ(streaming.sink, 4);
  EXPECT_EQ(streaming.recent, 8);
}

TEST(HeadPlan, SharesOutsideZeroToOneAreRefused) {
  const Pattern pattern = Make(1, 1, {0.5});
  for (const double bad : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_TRUE(Contains(PlanBySparsity(pattern, bad).status().message(), "sparsity must be from 0 to 1"));
    EXPECT_TRUE(Contains(PlanByThreshold(pattern, bad).status().message(), "threshold must be from 0 to 1"));
  }
}

}  // namespace
}  // namespace duo
