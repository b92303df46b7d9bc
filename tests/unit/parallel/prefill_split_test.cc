// What ranks share out of a chunk: the rows of each, and what the two ways send.
#include "parallel/prefill_split.h"

#include <gtest/gtest.h>

#include "attn_patterns/head_plan.h"
#include "parallel/partition.h"
#include "tests/unit/llama3_request.h"
#include "tests/unit/published_heads.h"

namespace duo {
namespace {

PartitionRequest OfRanks(int world) {
  PartitionRequest request = Llama3Request(512);
  request.heads = PublishedHeads("Llama-3-8B-Instruct-Gradient-1048k", 0.5);
  request.world = world;
  return request;
}

TEST(PrefillSplit, NamesAreReadAsTheyAreWritten) {
  for (const PrefillSplit split : {PrefillSplit::kHeads, PrefillSplit::kRows, PrefillSplit::kAuto}) {
    EXPECT_EQ(*ParsePrefillSplit(Name(split)), split);
  }
  EXPECT_EQ(ParsePrefillSplit("columns").status().message(),
            "--prefill-split: expected heads, rows or auto, found 'columns'");
}

TEST(PrefillSplit, EveryRowIsOneRanks) {
  for (const std::vector<double>& shares : {std::vector<double>{1}, {0.5, 0.5}, {0.3, 0.1, 0.6}, {0.01, 0.99}}) {
    for (const int64_t rows : {0, 1, 2, 37, 1170, 16384}) {
      int64_t next = 0;
      for (const Range& range : RowsOfGroups(rows, shares)) {
        EXPECT_EQ(range.begin, next);
        next = range.end;
      }
      EXPECT_EQ(next, rows);
    }
  }
}

TEST(PrefillSplit, ShortChunksGoByHeads) {
  EXPECT_FALSE(LongEnoughForRows(2 * kLeastRowsOfGroup - 1, {0.5, 0.5}));
  EXPECT_TRUE(LongEnoughForRows(2 * kLeastRowsOfGroup, {0.5, 0.5}));
  EXPECT_FALSE(LongEnoughForRows(1000, {0.01, 0.99}));
}

// By hand: without split heads and with equal ranks the formulas of the header.
TEST(PrefillSplit, BytesAreThoseOfTheFormulas) {
  const ModelShape shape = Llama3Request(512).shape;
  RankHeads four;
  four.whole = {0, 1};
  four.streaming = {2, 3};
  const PrefillBytes two = BytesOfLayer(shape, {four, four}, {0.5, 0.5}, 1, 2);
  EXPECT_EQ(two.heads, 2 * 4096 * 2);
  EXPECT_EQ(two.rows, 2560 * 2);
  // The head that both hold a piece of goes to both, and comes from both.
  RankHeads with_piece = four;
  with_piece.split = {{4, 0, 1, 2}};
  const PrefillBytes split = BytesOfLayer(shape, {with_piece, with_piece}, {0.5, 0.5}, 1, 2);
  EXPECT_EQ(split.rows, 2560 * 2 * 5 / 4);
  EXPECT_EQ(split.heads, two.heads);
  // Two hosts of two ranks: what the hosts send, however their ranks share it.
  const PrefillBytes hosts = BytesOfLayer(shape, {four, {}, {}, four}, {0.25, 0.25, 0.25, 0.25}, 2, 2);
  EXPECT_EQ(hosts.rows, two.rows);
}

TEST(PrefillSplit, HostsWithAsManyRanksAreTheGroups) {
  const std::vector<double> shares = {0.1, 0.2, 0.3, 0.4};
  const RowGroups hosts = RowGroupsOf({"b", "b", "a", "a"}, shares, 3);
  EXPECT_EQ(hosts.ranks, 2);
  EXPECT_EQ(hosts.group, 1);
  EXPECT_EQ(hosts.peers, (std::vector<int>{1, 3}));
  EXPECT_NEAR(hosts.shares[0], 0.3, 1e-12);
  EXPECT_EQ(RowGroupsOf({"b", "a", "b", "a"}, shares, 0).peers, (std::vector<int>{0, 1}));
  // One host, a rank a host, hosts unlike each other, and peers in another order than their groups: single ranks.
  for (const std::vector<std::string>& names : {std::vector<std::string>{"a", "a", "a", "a"},
                                                {"a", "b", "c", "d"},
                                                {"a", "a", "a", "b"},
                                                {"a", "b", "b", "a"}}) {
    const RowGroups ranks = RowGroupsOf(names, shares, 2);
    EXPECT_EQ(ranks.ranks, 1);
    EXPECT_EQ(ranks.group, 2);
    EXPECT_EQ(ranks.peers, (std::vector<int>{0, 1, 2, 3}));
    EXPECT_EQ(ranks.shares, shares);
  }
}

// Over a slow link a read by rows takes as much less as it sends less; where the link costs nothing they are alike.
TEST(PrefillSplit, RowsReadFasterOverSlowLinks) {
  PartitionRequest request = OfRanks(2);
  request.hosts.hosts = 2;
  double last_gain = 0;
  for (const double link : {1e13, 12.5e9, 1.25e9, 125e6}) {
    request.hosts.link = link;
    const Partition partition = *MakePartition(request);
    const double rows = ReadByRowsSeconds(MakeCostModel(request), partition);
    const double gain = partition.read_seconds / rows;
    EXPECT_GT(gain, last_gain) << link;
    if (link == 1e13) {
      EXPECT_NEAR(gain, 1, 0.01);
    }
    last_gain = gain;
  }
  EXPECT_GT(last_gain, 2);
  EXPECT_LT(last_gain, 3.2);  // 16384 bytes over 5120
}

}  // namespace
}  // namespace duo
