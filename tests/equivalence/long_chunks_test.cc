// Chunks of more rows than an MLP takes at once: a mixture of many experts takes more of them at once than its shared
// expert does.
#include "runtime/engine/probe.h"
#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

class LongChunks : public EngineFixture {};

TEST_F(LongChunks, OfAMixtureWithASharedExpertAreThoseOfShortOnes) {
  constexpr int kTokens = 4500;
  ProbeOptions options;
  ModelConfig shape;
  shape.family = Family::kQwen2Moe;
  shape.layers = 2;
  shape.hidden = 64;
  shape.intermediate = 48;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 16;
  shape.vocab = 300;
  shape.max_position_embeddings = 8192;
  shape.experts.count = 32;
  shape.experts.chosen = 2;
  shape.experts.intermediate = 24;
  shape.experts.shared_intermediate = 40;
  shape.experts.layers.assign(shape.layers, 1);
  options.shape = shape;
  options.attention = AttentionMode::kFull;
  options.kv_tokens = 8192;
  options.max_session_tokens = 5000;
  std::vector<int32_t> text(kTokens);
  for (int i = 0; i < kTokens; ++i) text[i] = static_cast<int32_t>(SplitMix64(i) % shape.vocab);
  std::vector<float> logits[2];
  for (const int chunk : {kTokens, 1000}) {
    Bench bench;
    bench.device = Device::Cpu(2);
    options.chunk = chunk;
    auto engine = EngineProbe::Create(options, *bench.device, *bench.comm);
    ASSERT_TRUE(engine.ok()) << engine.status();
    bench.engine = std::move(*engine);
    const Reply reply = bench.AskNow(bench.Open(5000), text, 1);
    ASSERT_EQ(reply.logits.size(), 1u);
    logits[chunk == kTokens ? 0 : 1] = reply.logits[0];
  }
  float most = 0, apart = 0;
  for (size_t i = 0; i < logits[0].size(); ++i) {
    most = std::max(most, std::abs(logits[0][i]));
    apart = std::max(apart, std::abs(logits[0][i] - logits[1][i]));
  }
  EXPECT_GT(most, 0.0f);
  EXPECT_LE(apart, 1e-4f * most);  // f32, in another order
}

}  // namespace
}  // namespace duo
