// Many sequences in one step: each gives the answer that it gives alone.
#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

constexpr int64_t kNewTokens = 6;

class Batch : public EngineFixture, public testing::WithParamInterface<int> {
 protected:
  // Room for `sequences` answers at once, on forks of four documents.
  EngineOptions Wide(int sequences) const {
    EngineOptions options = Options();
    options.questions = sequences;
    options.kv_tokens = 256 * sequences + 4096;
    return options;
  }
  // The i-th question, short enough that all of them are read in one step.
  std::vector<int32_t> Question(int i) const { return Text(1, 1000 + i); }
};

// On four documents of different lengths, none of which ends where a page does.
TEST_P(Batch, OfAnySizeAnswersAsEachAlone) {
  const int sequences = GetParam();
  Bench bench = Open(Wide(sequences));
  std::vector<SessionId> documents;
  for (int i = 0; i < 4; ++i) {
    documents.push_back(bench.Open(500));
    bench.Append(documents.back(), Text(150 + 61 * i, 20 + i));
  }
  bench.Run();
  std::vector<Reply> alone(sequences), together(sequences);
  for (int i = 0; i < sequences; ++i) alone[i] = bench.AskNow(documents[i % 4], Question(i), kNewTokens);
  GenerateParams params;
  params.max_new_tokens = kNewTokens;
  const int64_t before = bench.engine->counted().steps;
  for (int i = 0; i < sequences; ++i) bench.Ask(documents[i % 4], Question(i), &together[i], params);
  bench.Run();
  EXPECT_EQ(bench.engine->counted().steps - before, kNewTokens) << "all of them ride in every step";
  for (int i = 0; i < sequences; ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(together[i].result.status.ok()) << together[i].result.status;
    ExpectSame(alone[i], together[i], golden_.duo.tolerance());
  }
}

INSTANTIATE_TEST_SUITE_P(Sequences, Batch, testing::Values(2, 17, 64, 200));

// Sampled, with a penalty and a bias in some: a row's draw is its own.
TEST_F(Batch, OfForksDrawsWhatEachDrawsAlone) {
  constexpr int kForks = 64;
  Bench bench = Open(Wide(kForks));
  const SessionId document = bench.Open(500);
  bench.Append(document, Text(390, 30));
  const auto params = [](int i) {
    GenerateParams p;
    p.max_new_tokens = kNewTokens;
    p.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    p.seed = i;
    if (i % 3 == 0) p.rules.presence_penalty = 1.5f;
    if (i % 5 == 0) p.rules.logit_bias = {{i, 3.0f}};
    if (i % 7 == 0) p.rules.scores = 2;
    return p;
  };
  std::vector<Reply> alone(kForks), together(kForks);
  for (int i = 0; i < kForks; ++i) {
    bench.Ask(document, Question(i), &alone[i], params(i));
    bench.Run();
  }
  for (int i = 0; i < kForks; ++i) bench.Ask(document, Question(i), &together[i], params(i));
  bench.Run();
  for (int i = 0; i < kForks; ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(alone[i].tokens, together[i].tokens);
  }
  EXPECT_EQ(bench.engine->stats().rings_free, bench.engine->stats().rings - 1) << "only the document's is in use";
}

// Of 300 questions that may be open 256 run; the others wait, without rings.
TEST_F(Batch, ThatIsFullLetsTheOthersWait) {
  constexpr int kQuestions = 300;
  Bench bench = Open(Wide(kQuestions));
  const SessionId document = bench.Open(500);
  bench.Append(document, Text(100, 31));
  bench.Run();
  std::vector<Reply> replies(kQuestions);
  GenerateParams params;
  params.max_new_tokens = 2;
  for (int i = 0; i < kQuestions; ++i) bench.Ask(document, Question(i % 10), &replies[i], params);
  ASSERT_TRUE(bench.engine->Step());
  EXPECT_EQ(bench.engine->stats().running, 256);
  EXPECT_EQ(bench.engine->stats().waiting, kQuestions - 256);
  bench.Run();
  for (int i = 0; i < kQuestions; ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(replies[i].done && replies[i].result.status.ok());
    EXPECT_EQ(replies[i].tokens, replies[i % 10].tokens);
  }
}

}  // namespace
}  // namespace duo
