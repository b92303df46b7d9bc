// Several answers to one question, through the engine: each is the one that a question of its own with its seed gets.
#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

using AnswersTest = EngineFixture;

TEST_F(AnswersTest, EachIsTheOneThatItsSeedAloneGives) {
  GenerateParams params;
  params.max_new_tokens = 12;
  params.temperature = 20;  // the model is random, and sure of itself
  params.seed = 40;
  params.rules.frequency_penalty = 0.5f;
  for (const int questions : {1, 2, 4}) {
    EngineOptions options = Options();
    options.questions = questions;
    options.chunk = 32;
    Bench bench = Open(options);
    const SessionId session = bench.Open(400);
    bench.Append(session, Text(130, 1));
    const std::vector<int32_t> question = Text(150, 2);
    std::vector<Reply> together(4);
    std::vector<RequestEvents> events(4);
    for (int i = 0; i < 4; ++i) {
      events[i].on_token = [reply = &together[i]](int32_t token) {
        reply->tokens.push_back(token);
        return true;
      };
      events[i].on_done = [reply = &together[i]](const RequestResult& result) { reply->result = result; };
    }
    const int64_t before = bench.engine->stats().prefill_tokens;
    ASSERT_TRUE(bench.engine->AskMany(session, question, params, std::move(events)).ok());
    bench.Run();
    const int64_t read = bench.engine->stats().prefill_tokens - before;
    EXPECT_EQ(read, questions == 1 ? 130 + 4 * 150 : 130 + 150 + 3);
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(together[i].result.status.ok()) << together[i].result.status;
      Reply alone;
      GenerateParams own = params;
      own.seed = params.seed + static_cast<uint64_t>(i);
      bench.Ask(session, question, &alone, own);
      bench.Run();
      EXPECT_EQ(together[i].tokens, alone.tokens) << questions << " at once, answer " << i;
    }
    EXPECT_NE(together[0].tokens, together[1].tokens);
    EXPECT_EQ(bench.engine->Get(session)->tokens, 130);
  }
}

}  // namespace
}  // namespace duo
