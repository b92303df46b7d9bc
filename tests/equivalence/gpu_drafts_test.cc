// On Hopper GPUs answers that are written one at a time have the same tokens and logits with drafts and without, to the
// bit, where --speculate auto has any: up to 8 rows of a step, all in one page. (CPUs: drafts_test.cc.)
#include <cstdio>

#include "tests/equivalence/engine_fixture.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

class GpuDrafts : public EngineOnDevicesWithKv {
 protected:
  void SetUp() override {
    EngineOnDevicesWithKv::SetUp();
    if (IsSkipped()) return;
    golden_ = LoadGolden("needle-6m", scratch_.string());  // whose heads the kernels have
  }
  Bench With(Speculation speculate, DType weights) const { return With(speculate, weights, kv()); }
  Bench With(Speculation speculate, DType weights, KvFormat kv) const {
    EngineOptions options = Options();
    options.kv = kv;
    options.weights = weights;
    options.speculate = speculate;
    options.max_session_tokens = 2500;
    options.kv_tokens = 8192;
    options.recent = 70;  // rings go round
    return Open(options, 1);
  }
};
INSTANTIATE_TEST_SUITE_P(gpu, GpuDrafts,
                         testing::Combine(testing::Values(DeviceKind::kCuda),
                                          testing::Values(KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8,
                                                          KvFormat::kInt4)),
                         [](const auto& info) { return std::string(Name(std::get<1>(info.param))); });

TEST_P(GpuDrafts, AnswersWrittenOneByOneAreTheSameToTheBit) {
  for (const DType weights : {DType::kBF16, DType::kI8, DType::kI4}) {
    SCOPED_TRACE(Name(weights));
    Bench plain = With(Speculation::kOff, weights), drafting = With(Speculation::kAuto, weights);
    ASSERT_TRUE(plain.engine != nullptr && drafting.engine != nullptr);
    if (plain.device->info().capability != 90) GTEST_SKIP() << "rows are not alike on this GPU";
    ASSERT_EQ(drafting.engine->speculation(), Speculation::kText);
    const uint64_t first = FirstSeed(0);
    std::vector<int32_t> text = Text(60, 5 + first);
    while (text.size() < 1800) text.push_back(text[text.size() - 60]);
    const SessionId a = plain.Open(2500), b = drafting.Open(2500);
    plain.Append(a, text);
    drafting.Append(b, text);
    int64_t tokens = 0;
    for (int i = 0; i < Scaled(12); ++i) {
      GenerateParams params;
      params.max_new_tokens = 100;
      params.temperature = i % 2 == 0 ? 0.0f : 0.7f;
      params.seed = first + i;
      params.keep = i % 3 == 0 && i < 6;
      const std::vector<int32_t> question(text.begin() + 7 * i, text.begin() + 7 * i + 5 + 3 * (i % 8));
      Reply expected, found;
      plain.Ask(a, question, &expected, params);
      plain.Run();
      drafting.Ask(b, question, &found, params);
      drafting.Run();
      ASSERT_TRUE(expected.done && found.done);
      ASSERT_EQ(expected.tokens, found.tokens) << "answer " << i;
      ASSERT_EQ(expected.logits, found.logits) << "answer " << i;
      tokens += std::ssize(found.tokens);
    }
    const EngineStats stats = drafting.engine->stats();
    std::printf("%lld tokens compared; %lld drafted, %lld accepted\n", static_cast<long long>(tokens),
                static_cast<long long>(stats.drafted_tokens), static_cast<long long>(stats.accepted_tokens));
    EXPECT_GT(stats.accepted_tokens, 20);
    EXPECT_EQ(plain.engine->stats().drafted_tokens, 0);
  }
}

TEST_P(GpuDrafts, AutoHasNoneWhereARowsBitsDependOnItsCompany) {
  EngineOptions options = Options();
  options.kv = kv();
  options.max_session_tokens = 2500;
  options.speculate = Speculation::kAuto;
  options.decode_sparsity = *DecodeSparsityNamed("auto");  // answers visit page lists
  Bench lists = Open(options, 1);
  ASSERT_NE(lists.engine, nullptr);
  EXPECT_EQ(lists.engine->speculation(), Speculation::kOff);
}

}  // namespace
}  // namespace duo
