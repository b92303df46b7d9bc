#include "parallel/held_heads.h"

#include <gtest/gtest.h>

#include <vector>

#include "attn_patterns/head_plan.h"

namespace duo {
namespace {

// So many layers of three KV heads, one of which keeps everything and is split over all ranks.
Partition OneSplitHeadALayer(int layers, int world) {
  PartitionRequest request;
  request.shape = {.layers = layers, .hidden = 64, .intermediate = 64, .heads = 3, .kv_heads = 3, .head_dim = 64};
  request.shape.vocab = 100;
  HeadPlan plan;
  plan.layers = layers;
  plan.kv_heads = 3;
  plan.sink = 16;
  plan.recent = 32;
  for (int layer = 0; layer < layers; ++layer) plan.retrieval.insert(plan.retrieval.end(), {1, 0, 0});
  request.heads = plan;
  request.world = world;
  request.kv_token_bytes = 256;
  request.strategy = Strategy::kSplit;
  absl::StatusOr<Partition> partition = MakePartition(request);
  EXPECT_TRUE(partition.ok()) << partition.status();
  return *partition;
}

TEST(HeldHeads, ThirdsOfHeadsAddUpToWholeOnes) {
  const Partition partition = OneSplitHeadALayer(15, 3);
  for (int rank = 0; rank < 3; ++rank) {
    double sum = 0;
    for (const std::vector<RankHeads>& layer : partition.layers) sum += RetrievalLoad(layer[rank]);
    EXPECT_NE(sum, 5.0) << "a sum of doubles is, too: these layers show nothing";
    EXPECT_EQ(HeldBy(partition, rank).retrieval(), 5.0);
    EXPECT_EQ(HeldBy(partition, rank).whole, 0);
  }
}

TEST(HeldHeads, RanksTogetherHoldEveryHead) {
  for (const int layers : {1, 7, 12}) {
    for (const int world : {1, 2, 3, 5, 7}) {
      const Partition partition = OneSplitHeadALayer(layers, world);
      double retrieval = 0;
      int streaming = 0;
      for (int rank = 0; rank < world; ++rank) {
        const HeldHeads held = HeldBy(partition, rank);
        retrieval += held.retrieval();
        streaming += held.streaming;
      }
      EXPECT_NEAR(retrieval, layers, 1e-9) << world;
      EXPECT_EQ(streaming, 2 * layers) << world;
    }
  }
}

}  // namespace
}  // namespace duo
