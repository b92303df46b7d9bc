// Answers of a whole model that are written by page lists: what they do not depend on, that they are not taken for exact,
// and that what others read is.
#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

class ListedAnswersOfModel : public EngineOnDevicesWithKv {
 protected:
  static constexpr int kTokens = 7000, kAnswer = 40;

  void SetUp() override {
    EngineOnDevicesWithKv::SetUp();
    if (IsSkipped()) return;
    golden_ = LoadGolden("llama_mqa_f16", scratch_.string());  // which has a layer that may have lists
    GivePositions(golden_, 16384);
  }
  EngineOptions Listed(const std::string& setting) const {
    EngineOptions options = Options();
    options.attention = AttentionMode::kFull;
    options.pattern_dir.clear();
    options.threshold.reset();
    options.kv = kv();
    options.max_session_tokens = 8192;
    options.kv_tokens = 24'000;
    options.decode_sparsity = *DecodeSparsityNamed(setting);
    return options;
  }
  Reply Answer(const EngineOptions& options, int threads = 2, bool keep = false) {
    Bench bench = Open(options, threads);
    if (bench.engine == nullptr) return {};
    const SessionId session = bench.Open(kTokens + 100);
    bench.Append(session, Text(kTokens, 1));
    Reply reply;
    GenerateParams params;
    params.max_new_tokens = kAnswer;
    params.keep = keep;
    bench.Ask(session, Text(5, 2), &reply, params);
    bench.Run();
    EXPECT_TRUE(reply.result.status.ok()) << reply.result.status;
    return reply;
  }
  static float Difference(const Reply& a, const Reply& b, size_t step) {
    float most = 0;
    for (size_t i = 0; i < a.logits[step].size(); ++i) {
      most = std::max(most, std::abs(a.logits[step][i] - b.logits[step][i]));
    }
    return most;
  }
};
INSTANTIATE_ON_DEVICES_WITH_KV(ListedAnswersOfModel, KvFormat::kBF16, KvFormat::kInt4);

TEST_P(ListedAnswersOfModel, AreTheSameForTheSameCallAndSayWhatTheyLeftOut) {
  const Reply dense = Answer(Listed("off")), listed = Answer(Listed("0.3"));
  ASSERT_EQ(listed.logits.size(), kAnswer);
  EXPECT_FALSE(dense.result.decode.sparse());
  const DecodeReport& report = listed.result.decode;
  EXPECT_EQ(report.setting, "0.3");
  EXPECT_EQ(report.listed_tokens, 36);
  EXPECT_EQ(report.choices, 3);
  EXPECT_EQ(report.audits, 2);
  EXPECT_GT(report.mass, 0.2);
  EXPECT_LT(report.mass, 0.9);
  EXPECT_LE(report.least_mass, report.mass);
  EXPECT_EQ(report.least_layer, 2) << "the others have no lists";
  EXPECT_GT(report.density, 0.2);
  EXPECT_LT(report.density, 0.5);
  // The question and the row that makes the lists see everything.
  EXPECT_LE(Difference(dense, listed, 0), cuda() ? Tolerance(kv()) : 0);
  EXPECT_LE(Difference(dense, listed, 1), cuda() ? Tolerance(kv()) : 0);
  if (!cuda()) {
    EXPECT_GT(Difference(dense, listed, 2), Tolerance(KvFormat::kF32)) << "nothing was left out";
    const Reply again = Answer(Listed("0.3"), 3);
    EXPECT_EQ(again.tokens, listed.tokens);
    EXPECT_EQ(again.logits, listed.logits);
  }
}

TEST_P(ListedAnswersOfModel, AreExactWhereTheyAreKept) {
  const Reply dense = Answer(Listed("off"), 2, true), kept = Answer(Listed("0.3"), 2, true);
  EXPECT_FALSE(kept.result.decode.sparse());
  EXPECT_EQ(kept.tokens, dense.tokens);
  EXPECT_EQ(kept.logits, dense.logits);
}

// At 0.999 no list of a text whose attention is spread evenly is short enough.
TEST_P(ListedAnswersOfModel, SeeEverythingWhereNoListWouldDo) {
  const Reply dense = Answer(Listed("off")), listed = Answer(Listed("0.999"));
  EXPECT_FALSE(listed.result.decode.sparse());
  EXPECT_EQ(listed.tokens, dense.tokens);
  if (!cuda()) {
    EXPECT_EQ(listed.logits, dense.logits);
  }
}

}  // namespace
}  // namespace duo
