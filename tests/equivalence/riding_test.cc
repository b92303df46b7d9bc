// Answers whose rows ride in the steps that read a document: neither they nor the document's answers change by it.
#include <algorithm>

#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

class Riding : public EngineFixture, public testing::WithParamInterface<KvFormat> {
 protected:
  // Chunks of 96 tokens, whatever the machine's speed is.
  EngineOptions Short() const {
    EngineOptions options = Options();
    options.kv = GetParam();
    options.chunk = 96;
    options.max_gap = options.max_wait = 3600;
    options.questions = 8;
    return options;
  }
};

TEST_P(Riding, ChangesNoAnswer) {
  constexpr int kQuestions = 6;
  const std::vector<int32_t> document = Text(460, 40), asked = Text(131, 41), last = Text(9, 42);
  std::vector<Reply> alone(kQuestions + 1), beside(kQuestions + 1);
  for (const bool together : {false, true}) {
    std::vector<Reply>& replies = together ? beside : alone;
    Bench bench = Open(Short());
    const SessionId small = bench.Open(300), large = bench.Open(500);
    bench.Append(small, asked);
    bench.Run();
    GenerateParams params;
    params.max_new_tokens = 12;
    for (int i = 0; i < kQuestions; ++i) bench.Ask(small, Text(2 + 7 * i, 50 + i), &replies[i], params);
    ASSERT_TRUE(bench.engine->Step());
    if (!together) bench.Run();
    bench.Append(large, document);
    const int64_t before = bench.engine->counted().steps;
    if (together) {
      ASSERT_TRUE(bench.engine->Step());
      EXPECT_TRUE(bench.engine->counted().last_step_prefill);
      EXPECT_EQ(bench.engine->counted().decode_tokens, 6) << "of a step with a chunk of the document";
    }
    bench.Run();
    if (together) {
      EXPECT_LE(bench.engine->counted().steps - before, 13) << "five chunks beside twelve tokens";
    }
    bench.Ask(large, last, &replies[kQuestions], params);
    bench.Run();
  }
  for (int i = 0; i <= kQuestions; ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(beside[i].done && beside[i].result.status.ok());
    ExpectSame(alone[i], beside[i], golden_.duo.tolerance());
  }
}

// Forks of the very session that is being read go on from where it was.
TEST_P(Riding, OnForksOfTheSessionThatGrows) {
  Bench bench = Open(Short());
  const SessionId session = bench.Open(500);
  const std::vector<int32_t> question = Text(5, 60);
  bench.Append(session, Text(140, 61));
  bench.Run();
  const Reply alone = bench.AskNow(session, question, 12);
  Reply beside;
  GenerateParams params;
  params.max_new_tokens = 12;
  bench.Ask(session, question, &beside, params);
  bench.Append(session, Text(330, 62));
  bench.Run();
  ExpectSame(alone, beside, golden_.duo.tolerance());
  Bench other = Open(Short());
  const SessionId whole = other.Open(500);
  other.Append(whole, Text(140, 61));
  other.Append(whole, Text(330, 62));
  other.Run();
  ExpectSame(other.AskNow(whole, question), bench.AskNow(session, question), golden_.duo.tolerance());
}

INSTANTIATE_TEST_SUITE_P(Kv, Riding, testing::Values(KvFormat::kF32, KvFormat::kInt4),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace duo
