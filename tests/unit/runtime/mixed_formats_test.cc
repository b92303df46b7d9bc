// The mixture of formats that is measured without a file: which matrix has which, and that random weights fill it.
#include "runtime/weights/mixed_formats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/weight_decode.h"
#include "kernels/random_fill.h"
#include "runtime/weights/model_shape.h"

namespace duo {
namespace {

constexpr CodeFormat kFour = {DType::kI4, 32, 256}, kSix = {DType::kI8, 16, 256};

ModelConfig Shape(int layers, int64_t hidden, int64_t intermediate, int heads) {
  ModelConfig config;
  config.layers = layers;
  config.hidden = hidden;
  config.intermediate = intermediate;
  config.heads = heads;
  config.kv_heads = heads / 4;
  config.head_dim = static_cast<int>(hidden / heads);
  config.vocab = 512;
  return config;
}

// Random weights had no such check, and ended the program.
TEST(MixedFormats, FourBitsWantColumnsInWholeGroups) {
  WeightFormats formats;
  formats.matrices = DType::kI4;
  formats.int4_group = 32;
  EXPECT_TRUE(CheckGroups(Shape(2, 256, 512, 4), formats).ok());
  const absl::Status refused = CheckGroups(Shape(2, 256, 512, 16), formats);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("o_proj.weight has pieces of 16; use --weights int8"), std::string::npos) << refused;
  formats.matrices = DType::kI8;
  EXPECT_TRUE(CheckGroups(Shape(2, 256, 512, 16), formats).ok());
  formats.vocabulary = DType::kI4;
  EXPECT_TRUE(CheckGroups(Shape(2, 256, 512, 16), formats).ok());
}

TEST(MixedFormats, AreThoseOfTheMixture) {
  for (bool on_cuda : {false, true}) {
    const WeightFormats formats = MixedFormats(Shape(32, 4096, 14336, 32), on_cuda, kMixedWeights);
    const auto of = [&](int layer, WeightRole role) { return formats.kept.at({layer, role}); };
    EXPECT_EQ(of(-1, WeightRole::kHead), kSix);
    EXPECT_EQ(of(-1, WeightRole::kEmbedding), kFour);
    int wide = 0;
    for (int layer = 0; layer < 32; ++layer) {
      EXPECT_EQ(of(layer, WeightRole::kGateUp), kFour);
      EXPECT_EQ(of(layer, WeightRole::kO), (CodeFormat{DType::kI4, 32, 128})) << "heads cut its columns";
      EXPECT_EQ(of(layer, WeightRole::kQkv), of(layer, WeightRole::kDown));
      wide += of(layer, WeightRole::kDown) == kSix ? 1 : 0;
    }
    EXPECT_EQ(wide, 16);
    EXPECT_EQ(of(3, WeightRole::kDown), kSix);
    EXPECT_EQ(of(4, WeightRole::kDown), kFour);
    EXPECT_EQ(of(6, WeightRole::kDown), kSix);
    EXPECT_EQ(of(31, WeightRole::kDown), kSix);
  }
}

// Experts in MXFP4 stay so on both devices, and their random scales make outputs as large as inputs.
TEST(MixedFormats, OfExpertsInMxfp4) {
  ModelConfig config = Shape(2, 64, 96, 4);
  config.family = Family::kGptOss;
  config.experts.count = 4;
  config.experts.chosen = 2;
  config.experts.intermediate = 96;
  config.experts.layers.assign(2, 1);
  for (bool on_cuda : {false, true}) {
    const WeightFormats formats = MixedFormats(config, on_cuda, kMxfp4Weights);
    EXPECT_EQ(formats.kept.size(), 4u);
    for (int layer : {0, 1}) {
      for (WeightRole role : {WeightRole::kExpertGateUp, WeightRole::kExpertDown}) {
        EXPECT_EQ(formats.kept.at({layer, role}), (CodeFormat{DType::kI4, 32, 0, CodeTable::kE2M1}));
      }
    }
  }
  auto device = Device::Cpu(1);
  std::vector<uint8_t> codes(64 * 32 / 2), exponents(64);
  Weight w;
  w.dtype = DType::kI4;
  w.rows = 64;
  w.cols = 32;
  w.group = 32;
  w.table = CodeTable::kE2M1;
  w.data = codes.data();
  w.exponents = exponents.data();
  FillWeight(*device, w, 1, 0.25f);
  double squares = 0;
  std::vector<float> row(32);
  for (int r = 0; r < 64; ++r) {
    cpu::DecodeWeightRow(w, r, 0, 32, row.data());
    for (float v : row) squares += double{v} * v;
  }
  EXPECT_NEAR(std::sqrt(3 * squares / (64 * 32)) / 0.25, 1, 0.5);
}

TEST(MixedFormats, AreFilledAtRandomWithScalesOfBothLevels) {
  const ModelConfig config = Shape(2, 512, 1024, 4);
  const WeightFormats formats = MixedFormats(config, false, kMixedWeights);
  PartitionRequest request;
  request.shape = ShapeOf(config);
  request.heads = FullPlan(config.layers, config.kv_heads);
  request.world = 1;
  const RankShard shard = MakeShard(*MakePartition(request), request.shape, 0, 1, 1);
  auto device = Device::Cpu(1);
  const absl::StatusOr<ModelWeights> weights = RandomWeights({config, shard, formats}, *device);
  ASSERT_TRUE(weights.ok()) << weights.status();
  for (const WeightSet& layer : weights->layers) {
    for (WeightRole role : {WeightRole::kQkv, WeightRole::kO, WeightRole::kGateUp, WeightRole::kDown}) {
      const Weight& w = layer[role];
      ASSERT_NE(w.subs, nullptr);
      const int64_t subs = w.rows * (w.cols / w.group) * 2, pairs = w.rows * (w.cols / w.block);
      EXPECT_EQ(std::count(w.subs, w.subs + subs, 1), subs);
      int64_t scaled = 0;
      for (int64_t i = 0; i < pairs; ++i) scaled += w.groups[2 * i] == w.groups[0] && w.groups[0] != 0 ? 1 : 0;
      EXPECT_EQ(scaled, pairs);
    }
  }
}

}  // namespace
}  // namespace duo
