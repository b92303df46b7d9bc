// Bytes of weights that are counted once for all ranks that hold as much: those of each rank counted alone.
#include "launcher/plan_weights.h"

#include <gtest/gtest.h>

#include <random>

#include "runtime/weights/mixed_formats.h"
#include "runtime/weights/model_shape.h"

namespace duo {
namespace {

TEST(PlannedWeights, AreThoseOfEachRankCountedAlone) {
  std::mt19937 rng(1);
  for (const int experts : {0, 12}) {
    ModelConfig config;
    config.layers = 5;
    config.hidden = 256;
    config.intermediate = 512;
    config.heads = 8;
    config.kv_heads = 4;
    config.head_dim = 32;
    config.vocab = 1000;
    config.attention_bias = true;
    if (experts > 0) {
      config.family = Family::kQwen3Moe;
      config.experts.count = experts;
      config.experts.chosen = 2;
      config.experts.intermediate = 256;
      config.experts.layers = {1, 0, 1, 1, 1};
    }
    for (const int world : {1, 3, 8, 40}) {
      for (const ExpertPlacement placement : {ExpertPlacement::kSplit, ExpertPlacement::kWhole}) {
        PartitionRequest request;
        request.shape = ShapeOf(config);
        request.heads = FullPlan(config.layers, config.kv_heads);
        for (uint8_t& retrieval : request.heads.retrieval) retrieval = rng() % 2;
        request.world = world;
        request.experts = placement;
        for (int r = 0; r < world && world == 8; ++r) request.rank_weights.push_back(1 + rng() % 3);
        const absl::StatusOr<Partition> partition = MakePartition(request);
        ASSERT_TRUE(partition.ok()) << partition.status();
        const WeightFormats formats = MixedFormats(config, /*on_cuda=*/true, kMixedWeights);
        PlannedWeights planned(config, formats);
        for (int r = 0; r < world; ++r) {
          const RankShard shard = MakeShard(*partition, request.shape, r, 32, 1, {32, 1});
          EXPECT_EQ(planned.Bytes(shard), WeightBytes({config, shard, formats})) << world << " ranks, rank " << r;
        }
      }
    }
  }
}

}  // namespace
}  // namespace duo
