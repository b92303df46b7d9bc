#include "parallel/shard.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "parallel/range_sizes.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

TEST(Shard, CutsARangeInProportionAtMultiplesOfTheGranularity) {
  std::mt19937 rng(1);
  for (int trial = 0; trial < Scaled(500); ++trial) {
    const int world = 1 + static_cast<int>(rng() % 17);
    const int64_t total = 1 + rng() % 20000, granularity = int64_t{1} << (rng() % 8);
    std::vector<double> shares(world);
    for (double& share : shares) share = 1.0 + rng() % 3;
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (double& share : shares) share /= sum;
    int64_t end = 0;
    const std::vector<int64_t> sizes = RangeSizes(total, shares, granularity);
    for (int r = 0; r < world; ++r) {
      const Range range = ProportionalRange(total, shares, r, granularity);
      EXPECT_EQ(range.size(), sizes[r]);
      EXPECT_EQ(range.begin, end);
      EXPECT_LE(range.begin, range.end);
      if (range.end < total) {
        EXPECT_EQ(range.end % granularity, 0);
      }
      // Both ends are rounded to a multiple, and the last unit may be partial.
      EXPECT_LE(std::abs(range.size() - shares[r] * total), 2.0 * granularity);
      end = range.end;
    }
    EXPECT_EQ(end, total);
  }
}

TEST(Shard, PrefersTheCoarsestGranularityThatKeepsRanksEven) {
  EXPECT_EQ(PreferredGranularity(14336, 8), 128);  // 14 units each
  EXPECT_EQ(PreferredGranularity(11008, 8), 32);   // 86 units of 128 are 11 on the busiest of 8; 344 of 32 are 43 each
  EXPECT_EQ(PreferredGranularity(14336, 3), 64);   // 75 of 224 units: 0.4 % above the mean
  EXPECT_EQ(PreferredGranularity(5, 8), 1);
}

TEST(Shard, KeepsEveryRowOnceAndOrdersHeadsByKind) {
  std::mt19937 rng(2);
  for (int trial = 0; trial < 100; ++trial) {
    const int kv_heads = 1 + static_cast<int>(rng() % 8), group = 1 + static_cast<int>(rng() % 4);
    const int world = 1 + static_cast<int>(rng() % 10);
    PartitionRequest request;
    request.shape = {.layers = 3,
                     .hidden = 64,
                     .intermediate = 200,
                     .heads = kv_heads * group,
                     .kv_heads = kv_heads,
                     .head_dim = 16,
                     .vocab = 1003};
    request.heads.layers = 3;
    request.heads.kv_heads = kv_heads;
    for (int i = 0; i < 3 * kv_heads; ++i) request.heads.retrieval.push_back(rng() % 2);
    request.world = world;
    request.kv_token_bytes = 64;
    request.strategy = static_cast<Strategy>(rng() % 4);
    if (trial % 2 == 0) {
      for (int r = 0; r < world; ++r) request.rank_weights.push_back(1 + rng() % 3);
    }
    const Partition partition = *MakePartition(request);

    int64_t ffn = 0, vocab = 0;
    // How much of each row's output the ranks add up to: 1 for all. A piece adds its share of the sequence.
    std::vector<double> output(3 * request.shape.heads * 16);
    for (int r = 0; r < world; ++r) {
      const RankShard shard = MakeShard(partition, request.shape, r, 8, 1);
      ffn += shard.ffn.size();
      vocab += shard.vocab.size();
      for (int l = 0; l < 3; ++l) {
        HeadKind kind = HeadKind::kSplit;
        for (const LocalHead& head : shard.layers[l]) {
          EXPECT_LE(kind, head.kind);
          kind = head.kind;
          EXPECT_EQ(KvRows(request.shape, head.kv_head).size(), 16);
          const Range rows = QueryRows(request.shape, head.kv_head);
          const double share = static_cast<double>(head.last_slot - head.first_slot) / head.slots;
          for (int64_t i = rows.begin; i < rows.end && head.adds_output; ++i) {
            output[l * request.shape.heads * 16 + i] += share;
          }
        }
      }
    }
    EXPECT_EQ(ffn, 200);
    EXPECT_EQ(vocab, 1003);
    for (const double sum : output) EXPECT_NEAR(sum, 1, 1e-12);
  }
}

}  // namespace
}  // namespace duo
