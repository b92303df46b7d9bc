#include "runtime/weights/held_weights.h"

#include <gtest/gtest.h>

#include <map>

#include "runtime/weights/families.h"
#include "runtime/weights/model_shape.h"
#include "runtime/weights/weights.h"
#include "runtime/weights/weights_layout.h"

namespace duo {
namespace {

struct Sizes {
  Family family;
  int64_t hidden, intermediate;
  int layers, heads, kv_heads, head_dim;
  int64_t vocab;
  bool tied;
};

ModelConfig ConfigOf(const Sizes& s) {
  ModelConfig config;
  config.family = s.family;
  config.hidden = s.hidden;
  config.intermediate = s.intermediate;
  config.layers = s.layers;
  config.heads = s.heads;
  config.kv_heads = s.kv_heads;
  config.head_dim = s.head_dim;
  config.vocab = s.vocab;
  config.tie_embeddings = s.tied;
  config.attention_bias = s.family == Family::kQwen2;
  config.qk_norm = s.family == Family::kQwen3;
  return config;
}

const Sizes kSmall = {Family::kQwen2, 64, 96, 2, 8, 4, 16, 100, false};

std::vector<RankShard> ShardsOf(const ModelConfig& config, int world,
                                ExpertPlacement experts = ExpertPlacement::kAuto) {
  PartitionRequest request;
  request.experts = experts;
  request.shape = ShapeOf(config);
  request.heads = FullPlan(config.layers, config.kv_heads);
  request.world = world;
  request.kv_token_bytes = 64;
  request.strategy = Strategy::kHeads;
  const absl::StatusOr<Partition> partition = MakePartition(request);
  EXPECT_TRUE(partition.ok()) << partition.status();
  std::vector<RankShard> shards;
  for (int rank = 0; rank < world; ++rank) shards.push_back(MakeShard(*partition, request.shape, rank, 1, 1));
  return shards;
}

TEST(HeldWeights, ParametersAreThoseThatThePublishedModelsHave) {
  EXPECT_EQ(CountParameters(ConfigOf({Family::kLlama, 4096, 14336, 32, 32, 8, 128, 128256, false})), 8'030'261'248);
  EXPECT_EQ(CountParameters(ConfigOf({Family::kQwen2, 896, 4864, 24, 14, 2, 64, 151936, true})), 494'032'768);
  EXPECT_EQ(CountParameters(ConfigOf({Family::kQwen3, 1024, 3072, 28, 16, 8, 128, 151936, true})), 596'049'920);
}

TEST(HeldWeights, RanksTogetherHoldEveryMatrixOnce) {
  const ModelConfig config = ConfigOf(kSmall);
  std::map<std::pair<int, WeightRole>, int64_t> held;  // elements over all ranks
  int64_t biases = 0;
  for (const RankShard& shard : ShardsOf(config, 3)) {
    for (const HeldWeight& w : HeldWeights(config, shard)) {
      if (!w.is_vector()) held[{w.layer, w.role()}] += w.rows * w.cols;
      if (w.bias) biases += w.rows;
      int64_t rows = 0, cols = 0;
      for (const TensorSlice& slice : w.tensors) {
        for (const Range& piece : slice.row_pieces) rows += piece.size();
      }
      for (const Range& piece : w.tensors[0].col_pieces) cols += piece.size();
      EXPECT_EQ(rows, w.rows);
      EXPECT_EQ(cols, w.cols);
    }
  }
  int64_t total = 0;
  for (const auto& [key, elements] : held) total += elements;
  const int64_t vectors = config.layers * 2 * config.hidden + config.hidden;
  EXPECT_EQ(total + biases + vectors, CountParameters(config));
  EXPECT_EQ((held[{1, WeightRole::kQkv}]), (8 + 2 * 4) * 16 * 64);
  EXPECT_EQ((held[{-1, WeightRole::kHead}]), 100 * 64);
}

TEST(HeldWeights, OnlyTheFirstRankAddsTheBiasOfWhatIsAddedUp) {
  ModelConfig config = ConfigOf(kSmall);
  config.o_bias = true;
  for (const RankShard& shard : ShardsOf(config, 2)) {
    for (const HeldWeight& w : HeldWeights(config, shard)) {
      if (w.role() == WeightRole::kO) {
        EXPECT_EQ(w.bias, shard.rank == 0);
      } else if (w.role() == WeightRole::kQkv) {
        EXPECT_TRUE(w.bias);
      }
    }
  }
}

TEST(HeldWeights, TensorsAreNamedByRoleAndLayer) {
  ModelConfig config = ConfigOf(kSmall);
  EXPECT_EQ(TensorName(config, WeightRole::kQkv, 1, 1), "model.layers.1.self_attn.k_proj.weight");
  EXPECT_EQ(TensorName(config, WeightRole::kEmbedding, 0, -1), "model.embed_tokens.weight");
  EXPECT_EQ(TensorName(config, WeightRole::kQNorm, 0, 0), "");
  config.tie_embeddings = true;
  EXPECT_EQ(TensorName(config, WeightRole::kHead, 0, -1), "");
}

ModelConfig WithExperts(Family family, const ExpertsConfig& experts) {
  ModelConfig config = ConfigOf(kSmall);
  config.family = family;
  config.experts = experts;
  config.experts.layers.assign(config.layers, 1);
  return config;
}

TEST(HeldWeights, ParametersOfExpertsAreThoseOfPublishedModels) {
  ModelConfig mixtral = ConfigOf({Family::kMixtral, 4096, 14336, 32, 32, 8, 128, 32000, false});
  mixtral.experts = {.count = 8, .chosen = 2, .intermediate = 14336};
  mixtral.experts.layers.assign(32, 1);
  EXPECT_EQ(CountParameters(mixtral), 46'702'792'704);
  EXPECT_EQ(CountActiveParameters(mixtral), 12'879'925'248);
  ModelConfig qwen = ConfigOf({Family::kQwen3Moe, 2048, 6144, 48, 32, 4, 128, 151936, false});
  qwen.qk_norm = true;
  qwen.experts = {.count = 128, .chosen = 8, .intermediate = 768};
  qwen.experts.layers.assign(48, 1);
  EXPECT_EQ(CountParameters(qwen), 30'532'122'624);
  EXPECT_EQ(CountActiveParameters(qwen), 3'353'032'704);
  EXPECT_EQ(TokenMatrixElements(qwen), int64_t{48} * 2048 * (40 * 128 + 32 * 128 + 128 + 3 * 8 * 768));
}

TEST(HeldWeights, ExpertsAreCutAsAnMlpIsAndTheRouterIsWhole) {
  const ExpertsConfig sizes = {.count = 5, .chosen = 2, .intermediate = 44, .shared_intermediate = 20};
  const ModelConfig config = WithExperts(Family::kQwen2Moe, sizes);
  std::map<WeightRole, int64_t> held;  // elements of layer 1 over all ranks
  for (const RankShard& shard : ShardsOf(config, 3)) {
    for (const HeldWeight& w : HeldWeights(config, shard)) {
      EXPECT_NE(w.role(), WeightRole::kGateUp);
      if (w.layer != 1) continue;
      held[w.role()] += w.rows * w.cols;
      if (w.role() == WeightRole::kRouter) {
        EXPECT_EQ(w.rows, 5 + 1);
        EXPECT_EQ(w.tensors[1].name, "model.layers.1.mlp.shared_expert_gate.weight");
      }
      if (w.role() == WeightRole::kExpertGateUp) {
        ASSERT_EQ(w.tensors.size(), 10u);
        EXPECT_EQ(w.tensors[7].name, "model.layers.1.mlp.experts.3.up_proj.weight");
        EXPECT_EQ(w.rows, 10 * shard.expert.size());
      }
      if (w.role() == WeightRole::kExpertDown) {
        EXPECT_TRUE(w.cuts_columns());
        EXPECT_EQ(w.rows, 5 * config.hidden);
        EXPECT_EQ(w.cols, shard.expert.size());
      }
    }
  }
  EXPECT_EQ(held[WeightRole::kExpertGateUp], 5 * 2 * 44 * config.hidden);
  EXPECT_EQ(held[WeightRole::kExpertDown], 5 * 44 * config.hidden);
  EXPECT_EQ(held[WeightRole::kSharedGateUp], 2 * 20 * config.hidden);
  EXPECT_EQ(held[WeightRole::kSharedDown], 20 * config.hidden);
}

// A rank has a run of experts, with their biases; more ranks than experts leave some without.
TEST(HeldWeights, WholeExpertsAreDealtOutInRuns) {
  ModelConfig config = WithExperts(Family::kGptOss, {.count = 5, .chosen = 2, .intermediate = 64});
  config.expert_bias = true;
  for (const int world : {2, 3, 8}) {
    int64_t next = 0;
    bool none = false;
    for (const RankShard& shard : ShardsOf(config, world, ExpertPlacement::kWhole)) {
      EXPECT_EQ(shard.experts.begin, next);
      next = shard.experts.end;
      none |= shard.experts.size() == 0;
      for (const HeldWeight& w : HeldWeights(config, shard)) {
        if (w.role() != WeightRole::kExpertGateUp && w.role() != WeightRole::kExpertDown) continue;
        const bool down = w.role() == WeightRole::kExpertDown;
        EXPECT_FALSE(w.cuts_columns());
        EXPECT_TRUE(w.bias);
        EXPECT_EQ(w.rows, shard.experts.size() * (down ? config.hidden : 128));
        EXPECT_EQ(w.cols, down ? 64 : config.hidden);
        ASSERT_EQ(w.tensors.size(), static_cast<size_t>(shard.experts.size() * (down ? 1 : 2)));
        for (size_t i = 0; i < w.tensors.size(); ++i) {
          EXPECT_EQ(w.tensors[i].stacked.expert, shard.experts.begin + static_cast<int64_t>(i) / (down ? 1 : 2));
          EXPECT_EQ(w.tensors[i].stacked.experts, 5);
        }
      }
    }
    EXPECT_EQ(next, 5);
    EXPECT_EQ(none, world == 8);
  }
}

TEST(HeldWeights, WholeExpertsLeaveTheSharedOneSplit) {
  const ModelConfig config =
      WithExperts(Family::kQwen2Moe, {.count = 5, .chosen = 2, .intermediate = 44, .shared_intermediate = 20});
  std::map<WeightRole, int64_t> held;  // elements of layer 1 over all ranks
  for (const RankShard& shard : ShardsOf(config, 3, ExpertPlacement::kWhole)) {
    for (const HeldWeight& w : HeldWeights(config, shard)) {
      if (w.layer == 1) held[w.role()] += w.rows * w.cols;
      if (w.role() == WeightRole::kSharedDown) {
        EXPECT_TRUE(w.cuts_columns() && w.cols < 20);
      }
    }
  }
  EXPECT_EQ(held[WeightRole::kExpertGateUp], 5 * 2 * 44 * config.hidden);
  EXPECT_EQ(held[WeightRole::kExpertDown], 5 * 44 * config.hidden);
  EXPECT_EQ(held[WeightRole::kSharedDown], 20 * config.hidden);
}

TEST(HeldWeights, ALayerHasAnMlpOrExperts) {
  ModelConfig config = WithExperts(Family::kQwen3Moe, {.count = 3, .chosen = 1, .intermediate = 8});
  config.experts.layers = {1, 0};
  for (const HeldWeight& w : HeldWeights(config, ShardsOf(config, 1)[0])) {
    if (w.role() == WeightRole::kExpertDown || w.role() == WeightRole::kRouter) {
      EXPECT_EQ(w.layer, 0);
    }
    if (w.role() == WeightRole::kDown || w.role() == WeightRole::kGateUp) {
      EXPECT_EQ(w.layer, 1);
    }
  }
  EXPECT_EQ(TensorName(config, WeightRole::kDown, 0, 0), "");
  EXPECT_EQ(TensorName(config, WeightRole::kDown, 0, 1), "model.layers.1.mlp.down_proj.weight");
}

TEST(HeldWeights, BytesAreThoseOfTheFormats) {
  const ModelConfig config = ConfigOf(kSmall);
  const std::vector<RankShard> shards = ShardsOf(config, 1);
  WeightFormats formats;
  formats.matrices = formats.vocabulary = DType::kF32;
  const int64_t f32 = WeightBytes({config, shards[0], formats});
  EXPECT_GE(f32, 4 * CountParameters(config));
  EXPECT_LT(f32, 4 * CountParameters(config) + 64 * static_cast<int64_t>(Arena::kAlignment));
  formats.matrices = DType::kI8;
  const int64_t codes = WeightBytes({config, shards[0], formats});
  EXPECT_NEAR(static_cast<double>(f32 - codes), 3.0 * TokenMatrixElements(config), 64.0 * 256);
}

TEST(HeldWeights, ACopyWithoutItsEmbeddingHasAHead) {
  ModelConfig config = ConfigOf(kSmall);
  const RankShard shard = ShardsOf(config, 1)[0];
  WeightFormats formats;
  formats.matrices = formats.vocabulary = DType::kF32;
  for (const bool tied : {false, true}) {
    config.tie_embeddings = tied;
    const WeightShare share = {config, shard, formats};
    const int64_t all = WeightBytes(share);
    WeightFormats copy = formats;
    copy.without_embedding = true;
    const int64_t embedding = 4 * int64_t{config.vocab} * config.hidden;
    EXPECT_NEAR(static_cast<double>(all - WeightBytes({config, shard, copy})), tied ? 0.0 : embedding, 256.0);
    const auto device = Device::Cpu(1);
    const absl::StatusOr<ModelWeights> made = LayOutWeights({config, shard, copy}, *device);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->outer[WeightRole::kHead].rows, config.vocab);
    EXPECT_EQ(made->outer[WeightRole::kEmbedding].rows, tied ? config.vocab : 0);
  }
}

// --weights int8:32 --weights-head fp8: the group is that of int8.
TEST(HeldWeights, AHeadInFp8BesideInt8InGroupsHasAScaleForEachRow) {
  const ModelConfig config = ConfigOf(kSmall);
  WeightFormats formats;
  formats.matrices = DType::kI8;
  formats.vocabulary = DType::kF8E4M3;
  formats.int8_group = 32;
  const ModelWeights weights = DescribeWeights({config, ShardsOf(config, 1)[0], formats});
  EXPECT_EQ(weights.outer[WeightRole::kHead].dtype, DType::kF8E4M3);
  EXPECT_EQ(weights.outer[WeightRole::kHead].group, 0);
  EXPECT_EQ(weights.outer[WeightRole::kHead].block, 0);
  EXPECT_EQ(weights.layers[0][WeightRole::kQkv].group, 32);
}

}  // namespace
}  // namespace duo
