// Log-probabilities of a short question's own tokens behind a text that rings have forgotten most of. Every row of its
// step is sampled, as in a step that checks drafts; but rings have no room for such rows here, so that the step cannot
// be run twice: what it wrote lies where rows of a second run still read. A GPU would run it twice if it were recorded
// (runtime/model/worker.cc), the first time that it meets so many rows.
#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

constexpr int kText = 100;

class ScoredPrompts : public EngineOnDevices {
 protected:
  // log-probabilities of the tokens but the first, then the logits behind the last
  using Scores = std::vector<float>;

  Scores Ask(Bench& bench, SessionId session, const std::vector<int32_t>& question) const {
    GenerateParams params;
    params.rules.prompt_scores = 1;
    params.max_new_tokens = 1;
    params.want_logits = true;
    Scores scores;
    RequestEvents events;
    events.on_prompt_score = [&](const TokenScore& score) { scores.push_back(score.chosen.logprob); };
    events.on_logits = [&](const std::vector<float>& logits) {
      scores.insert(scores.end(), logits.begin(), logits.end());
    };
    events.on_done = [](const RequestResult& result) { EXPECT_TRUE(result.status.ok()) << result.status; };
    EXPECT_TRUE(bench.engine->Ask(session, question, params, std::move(events)).ok());
    bench.Run();
    EXPECT_EQ(scores.size(), question.size() - 1 + vocab());
    return scores;
  }
  EngineOptions Without() const {
    EngineOptions options = Options();
    options.speculate = Speculation::kOff;
    options.sink = 3;
    options.recent = 21;
    return options;
  }
  Bench Reference() const {
    Bench bench;
    bench.device = Device::Cpu(1);
    EngineOptions options = Without();
    if (cuda()) options.kv = KvFormat::kBF16;
    bench.engine = std::move(*Engine::Create(options, *bench.device, *bench.comm));
    return bench;
  }
  void ExpectNear(const Scores& found, const Scores& expected) const {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], Tolerance()) << i;
  }
};
INSTANTIATE_ON_DEVICES(ScoredPrompts);

TEST_P(ScoredPrompts, AreTheSameWhenTheyAreAskedFirst) {
  Bench reference = Reference();
  const SessionId at_reference = reference.Open(kText + 20);
  reference.Append(at_reference, Text(kText, 1));
  for (const int rows : {2, 5, 16}) {
    SCOPED_TRACE(rows);
    const std::vector<int32_t> question = Text(rows, 2);
    Bench bench = Open(Without());
    ASSERT_TRUE(bench.engine != nullptr);
    const SessionId session = bench.Open(kText + 20);
    bench.Append(session, Text(kText, 1));
    bench.Run();
    const Scores first = Ask(bench, session, question), again = Ask(bench, session, question);
    EXPECT_EQ(first, again);
    ASSERT_NO_FATAL_FAILURE(ExpectNear(first, Ask(reference, at_reference, question)));

    bench.Append(session, Text(9, 3));
    bench.Run();
    ASSERT_TRUE(bench.engine->Rewind(session, kText).ok());
    ASSERT_NO_FATAL_FAILURE(ExpectNear(Ask(bench, session, question), first));
  }
}

}  // namespace
}  // namespace duo
