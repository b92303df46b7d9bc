// What a question may ask of its draws, through the engine: scores, penalties, bans, stop tokens, and that all of it
// leaves a question that asks for nothing as it was.
#include <map>

#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

struct ScoredReply {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
  std::vector<TokenScore> scores, prompt_scores;
  RequestResult result;
};

class SamplingRulesTest : public EngineFixture {
 protected:
  ScoredReply Ask(Bench& bench, SessionId session, std::vector<int32_t> tokens, GenerateParams params) {
    ScoredReply reply;
    params.want_logits = true;
    bench.engine->Ask(session, std::move(tokens), params, Events(&reply)).status().IgnoreError();
    bench.Run();
    return reply;
  }
  static RequestEvents Events(ScoredReply* reply) {
    RequestEvents events;
    events.on_token = [reply](int32_t token) {
      reply->tokens.push_back(token);
      return true;
    };
    events.on_logits = [reply](const std::vector<float>& logits) { reply->logits.push_back(logits); };
    events.on_score = [reply](const TokenScore& score) { reply->scores.push_back(score); };
    events.on_prompt_score = [reply](const TokenScore& score) { reply->prompt_scores.push_back(score); };
    events.on_done = [reply](const RequestResult& result) { reply->result = result; };
    return events;
  }
  static double LogProb(const std::vector<float>& logits, int32_t token) {
    double sum = 0;
    for (float x : logits) sum += std::exp(double{x});
    return logits[token] - std::log(sum);
  }
};

TEST_F(SamplingRulesTest, ScoresAreThoseOfTheLogits) {
  Bench bench = Open(Options());
  const SessionId session = bench.Open(100);
  bench.Append(session, Text(40, 1));
  for (const float temperature : {0.0f, 0.8f}) {
    GenerateParams params;
    params.max_new_tokens = 6;
    params.temperature = temperature;
    params.rules.scores = 3;
    const ScoredReply reply = Ask(bench, session, Text(5, 2), params);
    ASSERT_EQ(reply.scores.size(), 6u);
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(reply.scores[i].chosen.token, reply.tokens[i]);
      EXPECT_NEAR(reply.scores[i].chosen.logprob, LogProb(reply.logits[i], reply.tokens[i]), 1e-5);
      ASSERT_EQ(reply.scores[i].best.size(), 3u);
      for (const TokenLogprob& best : reply.scores[i].best) {
        EXPECT_NEAR(best.logprob, LogProb(reply.logits[i], best.token), 1e-5);
      }
    }
  }
}

// A prompt of several steps of scored rows, beside others that answer and that are scored, too.
TEST_F(SamplingRulesTest, APromptsScoresAreThoseOfItsTokensReadOneByOne) {
  EngineOptions options = Options();
  options.append_logits = true;
  const std::vector<int32_t> text = Text(150, 3);
  std::vector<std::vector<float>> logits;
  {
    Bench bench = Open(options);
    RequestEvents events;
    events.on_logits = [&](const std::vector<float>& row) { logits.push_back(row); };
    ASSERT_TRUE(bench.engine->Append(bench.Open(200), text, std::move(events)).ok());
    bench.Run();
  }
  Bench bench = Open(Options());
  const SessionId session = bench.Open(1);
  GenerateParams params;
  params.rules.prompt_scores = 2;
  params.max_new_tokens = 4;
  ScoredReply drawn, silent, other;
  ASSERT_TRUE(bench.engine->Ask(session, text, params, Events(&drawn)).ok());
  ASSERT_TRUE(bench.engine->Ask(session, Text(9, 4), GenerateParams(), Events(&other)).ok());
  params.max_new_tokens = 0;
  ASSERT_TRUE(bench.engine->Ask(session, text, params, Events(&silent)).ok());
  bench.Run();
  EXPECT_EQ(other.tokens.size(), 128u);
  EXPECT_TRUE(other.prompt_scores.empty());
  EXPECT_EQ(drawn.tokens.size(), 4u);
  EXPECT_TRUE(silent.tokens.empty());
  EXPECT_TRUE(silent.result.status.ok()) << silent.result.status;
  EXPECT_EQ(silent.result.finish, Finish::kLength);
  for (const ScoredReply* reply : {&drawn, &silent}) {
    ASSERT_EQ(reply->prompt_scores.size(), text.size() - 1);
    for (size_t i = 1; i < text.size(); ++i) {
      const TokenScore& score = reply->prompt_scores[i - 1];
      EXPECT_EQ(score.chosen.token, text[i]);
      EXPECT_NEAR(score.chosen.logprob, LogProb(logits[i - 1], text[i]), 1e-3) << i;
      EXPECT_EQ(score.best.size(), 2u);
    }
  }
}

TEST_F(SamplingRulesTest, PenaltiesAreOverTheAnswer) {
  Bench bench = Open(Options());
  const SessionId session = bench.Open(100);
  bench.Append(session, Text(40, 1));
  GenerateParams params;
  params.max_new_tokens = 24;
  const ScoredReply plain = Ask(bench, session, Text(5, 2), params);
  params.rules.presence_penalty = 1.5f;
  params.rules.frequency_penalty = 0.5f;
  params.rules.repetition_penalty = 1.3f;
  const ScoredReply reply = Ask(bench, session, Text(5, 2), params);
  ASSERT_EQ(reply.tokens.size(), 24u);
  EXPECT_EQ(reply.tokens[0], plain.tokens[0]);  // nothing of the prompt is punished
  std::map<int32_t, int> counts;
  for (size_t step = 0; step < reply.tokens.size(); ++step) {
    std::vector<float> logits = reply.logits[step];
    for (const auto& [token, count] : counts) {
      float& x = logits[token];
      x = (x > 0 ? x / 1.3f : x * 1.3f) - (1.5f + 0.5f * static_cast<float>(count));
    }
    EXPECT_EQ(reply.tokens[step], std::max_element(logits.begin(), logits.end()) - logits.begin()) << step;
    ++counts[reply.tokens[step]];
  }
}

TEST_F(SamplingRulesTest, BiasBansStopTokensAndAllowedTokensAreKept) {
  Bench bench = Open(Options());
  const SessionId session = bench.Open(100);
  bench.Append(session, Text(40, 1));
  GenerateParams params;
  params.max_new_tokens = 8;
  const ScoredReply plain = Ask(bench, session, Text(5, 2), params);

  GenerateParams biased = params;
  biased.rules.logit_bias = {{11, 100.0f}};
  EXPECT_EQ(Ask(bench, session, Text(5, 2), biased).tokens, std::vector<int32_t>(8, 11));

  GenerateParams stopped = params;
  stopped.rules.stop_tokens = {plain.tokens[0]};
  ScoredReply reply = Ask(bench, session, Text(5, 2), stopped);
  EXPECT_TRUE(reply.tokens.empty());
  EXPECT_EQ(reply.result.finish, Finish::kStop);
  stopped.end_tokens = {plain.tokens[1]};
  stopped.rules.min_new_tokens = 5;
  reply = Ask(bench, session, Text(5, 2), stopped);
  ASSERT_GE(reply.tokens.size(), 5u);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(reply.tokens[i] != plain.tokens[0] && reply.tokens[i] != plain.tokens[1]);

  ScoredReply allowed;
  RequestEvents events = Events(&allowed);
  int draws = 0;
  events.allow = [&](std::vector<uint32_t>* mask) {
    if (++draws == 4) return absl::OutOfRangeError("enough");
    mask->assign((vocab() + 31) / 32, 0);
    (*mask)[1] = 0b11000;  // 35 and 36
    return absl::OkStatus();
  };
  params.temperature = 1;
  ASSERT_TRUE(bench.engine->Ask(session, Text(5, 2), params, std::move(events)).ok());
  bench.Run();
  ASSERT_EQ(allowed.tokens.size(), 3u);
  for (int32_t token : allowed.tokens) EXPECT_TRUE(token == 35 || token == 36);
  EXPECT_EQ(allowed.result.status.message(), "enough");
}

}  // namespace
}  // namespace duo
