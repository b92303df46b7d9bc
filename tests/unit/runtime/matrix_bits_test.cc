// The bits of a weight by which partitions are planned: each matrix counts by its elements, and the engine takes the
// same number as the planner does.
#include "runtime/weights/matrix_bits.h"

#include <gtest/gtest.h>

#include "runtime/engine/probe.h"
#include "runtime/weights/mixed_formats.h"
#include "runtime/weights/model_shape.h"

namespace duo {
namespace {

ModelConfig SmallShape() {
  ModelConfig config;
  config.layers = 8;
  config.hidden = 512;
  config.intermediate = 2048;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 128;
  config.vocab = 512;
  config.max_position_embeddings = 1 << 16;
  return config;
}

TEST(MatrixBits, CountEachMatrixByItsElements) {
  const ModelConfig config = SmallShape();
  WeightFormats formats;
  EXPECT_EQ(MatrixBits(config, formats), 16);
  formats.matrices = DType::kF32;
  EXPECT_EQ(MatrixBits(config, formats), 16) << "what plans are made for has no wider matrices";
  formats.matrices = DType::kBF16;
  for (int layer = 0; layer < config.layers; ++layer) {
    formats.kept[{layer, WeightRole::kGateUp}] = {DType::kI4, 32, 256};
    formats.kept[{layer, WeightRole::kDown}] = {DType::kI8, 16, 256};
  }
  // In units of 2^18: qkv has 2, o 1, both in 16 bits; gate and up 8 in 4, down 4 in 8.
  EXPECT_EQ(MatrixBits(config, formats), (3 * 16 + 8 * 4 + 4 * 8 + 7) / 15);
  formats.kept[{-1, WeightRole::kHead}] = {DType::kF32, 0, 0};
  EXPECT_EQ(MatrixBits(config, formats), 7) << "the vocabulary is none of the layers' matrices";
}

TEST(MatrixBits, OfExpertsThatATokenChooses) {
  ModelConfig config = SmallShape();
  config.family = Family::kMixtral;
  config.experts.count = 64;
  config.experts.chosen = 2;
  config.experts.intermediate = 512;
  config.experts.layers.assign(config.layers, 1);
  const WeightFormats formats = MixedFormats(config, /*on_cuda=*/true, kMxfp4Weights);
  // Two experts have 2 x 3 units of 2^18 in 4 bits, attention has 3 in 16; all 64 would make it 4.
  EXPECT_EQ(MatrixBits(config, formats), 8);
}

// An engine planned mixtures of formats as 16-bit weights, the planner as the mean over kinds of matrices.
TEST(MatrixBits, AreWhatTheEngineIsPlannedBy) {
  ProbeOptions options;
  options.shape = SmallShape();
  options.heads = FullPlan(options.shape->layers, options.shape->kv_heads);
  options.mixed_weights = kMixedWeights;
  options.max_session_tokens = options.kv_tokens = 1024;
  const auto device = Device::Cpu(1);
  const auto comm = MakeSelfCommunicator();
  const absl::StatusOr<std::unique_ptr<Engine>> engine = EngineProbe::Create(options, *device, *comm);
  ASSERT_TRUE(engine.ok()) << engine.status();

  PartitionRequest request;
  request.shape = ShapeOf(*options.shape);
  request.heads = *options.heads;
  request.kv_token_bytes = KvTokenBytes((*engine)->kv_format(), options.shape->head_dim);
  const WeightFormats planned = MixedFormats(*options.shape, /*on_cuda=*/true, kMixedWeights);
  for (const int bits : {MatrixBits(*options.shape, planned), EngineProbe(**engine).WeightBits()}) {
    request.weight_bits = bits;
    const absl::StatusOr<Partition> partition = MakePartition(request);
    ASSERT_TRUE(partition.ok()) << partition.status();
    EXPECT_EQ(partition->step_seconds, (*engine)->partition().step_seconds) << bits << " bits";
  }
  request.weight_bits = 16;
  EXPECT_GT(MakePartition(request)->step_seconds, (*engine)->partition().step_seconds);
}

}  // namespace
}  // namespace duo
