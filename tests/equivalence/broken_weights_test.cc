// Weights with NaN or infinity in them: answers that meet them end with an error that says so, and nobody else's
// change.
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

// On a model whose embedding is not its head, so that one token may break what is read, or what is drawn.
class BrokenWeights : public EngineOnDevices {
 protected:
  static constexpr int kDocument = 130, kQuestion = 7;  // neither ends with a page

  void SetUp() override {
    EngineOnDevices::SetUp();
    if (!scratch_.empty()) Mend();
  }
  void Mend() { golden_ = LoadGolden("llama_mha_untied", scratch_.string()); }
  // A row of one tensor becomes `value`; the others are whole.
  void Break(const std::string& tensor, int32_t row, float value) {
    Mend();
    const std::string path = golden_.model_dir + "/model.safetensors";
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    uint64_t length = 0;
    file.read(reinterpret_cast<char*>(&length), sizeof length);
    std::string header(length, '\0');
    file.read(header.data(), static_cast<std::streamsize>(length));
    const nlohmann::json entry = nlohmann::json::parse(header)[tensor];
    ASSERT_EQ(entry["dtype"], "F32");
    const int64_t cols = entry["shape"][1], begin = entry["data_offsets"][0];
    file.seekp(static_cast<std::streamoff>(sizeof length + length + begin + row * cols * 4));
    for (int64_t i = 0; i < cols; ++i) file.write(reinterpret_cast<const char*>(&value), 4);
    ASSERT_TRUE(file.good());
  }
  SessionId Read(Bench& bench, uint64_t seed) const {
    const SessionId session = bench.Open(400);
    bench.Append(session, Text(kDocument, seed));
    bench.Run();
    return session;
  }
  static Reply Ask(Bench& bench, SessionId session, std::vector<int32_t> question, const GenerateParams& params) {
    Reply reply;
    bench.Ask(session, std::move(question), &reply, params);
    bench.Run();
    EXPECT_TRUE(reply.done);
    return reply;
  }
  static void ExpectNoNumber(const absl::Status& status, int64_t tokens) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_EQ(std::string(status.message()),
              "the model's output after " + std::to_string(tokens) +
                  " tokens is no number (NaN or infinity): its weights are damaged, or too coarse a "
                  "format (--weights, --kv) overflows");
  }

  // The place of an answer's first token behind the first one that nothing before it has, and that another follows; 0:
  // there is none.
  static size_t OwnToken(const std::vector<int32_t>& answer, std::vector<int32_t> before,
                         const std::vector<int32_t>& question) {
    before.insert(before.end(), question.begin(), question.end());
    for (size_t at = 0; at + 1 < answer.size(); ++at) {
      if (at > 0 && std::find(before.begin(), before.end(), answer[at]) == before.end()) return at;
      before.push_back(answer[at]);
    }
    return 0;
  }

  // Ways to draw; the model is random, and sure of itself.
  static std::vector<std::pair<std::string, GenerateParams>> Draws() {
    std::vector<std::pair<std::string, GenerateParams>> draws(7);
    for (size_t i = 0; i < draws.size(); ++i) {
      GenerateParams& params = draws[i].second;
      params.max_new_tokens = 12;
      params.seed = 5 + i;
      if (i > 0) params.temperature = 3;
    }
    draws[0].first = "greedy";
    draws[1].first = "temperature";
    draws[2].first = "top_p";
    draws[2].second.top_p = 0.9f;
    draws[3].first = "top_k";
    draws[3].second.rules.top_k = 40;
    draws[4].first = "min_p";
    draws[4].second.rules.min_p = 0.01f;
    draws[5].first = "penalty and bias";
    draws[5].second.rules.frequency_penalty = 0.5f;
    draws[5].second.rules.logit_bias = {{3, 1.0f}};
    draws[6].first = "scores";
    draws[6].second.rules.scores = kMostBest;
    return draws;
  }
};
INSTANTIATE_ON_DEVICES(BrokenWeights);

// The token that an answer has at `at` and that nothing before it has: its embedding breaks the draw behind it.
TEST_P(BrokenWeights, AnAnswerEndsWhereItsModelGivesNoNumber) {
  for (const auto& [name, params] : Draws()) {
    SCOPED_TRACE(name);
    Mend();
    Bench whole = Open(Options());
    const SessionId document = Read(whole, 1);
    std::vector<int32_t> question;
    Reply clean;
    size_t at = 0;
    for (uint64_t seed = 2; at == 0; ++seed) {
      ASSERT_LT(seed, 30) << "no answer has a token of its own";
      question = Text(kQuestion, seed);
      clean = Ask(whole, document, question, params);
      ASSERT_TRUE(clean.result.status.ok()) << clean.result.status;
      ASSERT_EQ(clean.tokens.size(), params.max_new_tokens);
      at = OwnToken(clean.tokens, Text(kDocument, 1), question);
    }

    for (const float value : {kNaN, kInfinity, -kInfinity}) {
      for (const Speculation speculate : {Speculation::kOff, Speculation::kText}) {
        const bool plain = std::isnan(value) && speculate == Speculation::kOff;
        if (!plain && params.temperature > 0) continue;  // opening an engine takes a GPU seconds
        Break("model.embed_tokens.weight", clean.tokens[at], value);
        EngineOptions options = Options();
        options.speculate = speculate;
        Bench broken = Open(options);
        const Reply reply = Ask(broken, Read(broken, 1), question, params);
        ExpectNoNumber(reply.result.status, kDocument + kQuestion + static_cast<int64_t>(at) + 1);
        EXPECT_EQ(reply.tokens, std::vector<int32_t>(clean.tokens.begin(), clean.tokens.begin() + at + 1));
        EXPECT_EQ(broken.engine->stats().running, 0);
      }
    }
  }
}

// A logit of +infinity, or of NaN, among good ones: no token is drawn at all, whatever the way.
TEST_P(BrokenWeights, OneLogitIsEnough) {
  const std::vector<int32_t> question = Text(kQuestion, 2);
  for (const int row : {0, 100, 256}) {
    for (const float value : {kNaN, kInfinity}) {
      Break("lm_head.weight", row, value);
      Bench bench = Open(Options());
      const SessionId session = Read(bench, 1);
      for (const auto& [name, params] : Draws()) {
        SCOPED_TRACE(name + ", row " + std::to_string(row));
        const Reply reply = Ask(bench, session, question, params);
        ExpectNoNumber(reply.result.status, kDocument + kQuestion);
        EXPECT_TRUE(reply.tokens.empty());
      }
    }
  }
}

// What is scored is refused as what is drawn, and each of several answers by itself. Rows of a chunk may meet what is
// behind them, with a weight of 0, so which of them gives no number first is not said.
TEST_P(BrokenWeights, ScoresOfAPromptAndSeveralAnswersEndToo) {
  std::vector<int32_t> question = Text(40, 2);
  Break("model.embed_tokens.weight", question[25], kNaN);
  Bench bench = Open(Options());
  GenerateParams params;
  params.rules.prompt_scores = 3;
  for (const int64_t new_tokens : {0, 4}) {
    params.max_new_tokens = new_tokens;
    std::vector<absl::Status> ended(3, absl::UnknownError("not yet"));
    std::vector<RequestEvents> events(new_tokens == 0 ? 1 : 3);
    for (size_t i = 0; i < events.size(); ++i) {
      events[i].on_prompt_score = [](const TokenScore& score) { EXPECT_TRUE(std::isfinite(score.chosen.logprob)); };
      events[i].on_token = [](int32_t) { return ADD_FAILURE() << "a token was drawn", false; };
      events[i].on_done = [ended = &ended[i]](const RequestResult& result) { *ended = result.status; };
    }
    const size_t answers = events.size();
    ASSERT_TRUE(bench.engine->AskMany(bench.Open(100), question, params, std::move(events)).ok());
    bench.Run();
    for (size_t i = 0; i < answers; ++i) {
      EXPECT_EQ(ended[i].code(), absl::StatusCode::kInternal) << ended[i];
      EXPECT_NE(ended[i].message().find("tokens is no number (NaN or infinity)"), absl::string_view::npos) << ended[i];
    }
    EXPECT_EQ(bench.engine->stats().running + bench.engine->stats().waiting, 0);
  }
}

// Neither who is asked beside it, nor who gets its pages and its ring when it is gone.
TEST_P(BrokenWeights, NobodyElseGetsIt) {
  const std::vector<int32_t> question = Text(kQuestion, 4);
  GenerateParams params;
  params.max_new_tokens = 8;
  EngineOptions options = Options();
  options.sessions = 2;
  options.questions = 2;
  options.kv_tokens = 10 * kPageTokens;  // so few pages that they are soon used again
  Reply clean;
  {
    Bench whole = Open(options);
    clean = Ask(whole, Read(whole, 3), question, params);
  }
  std::vector<int32_t> seen = Text(kDocument, 3);
  seen.insert(seen.end(), question.begin(), question.end());
  seen.insert(seen.end(), clean.tokens.begin(), clean.tokens.end());
  int32_t token = 2;
  while (std::find(seen.begin(), seen.end(), token) != seen.end()) ++token;
  Break("model.embed_tokens.weight", token, kNaN);

  Bench bench = Open(options);
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const SessionId other = Read(bench, 3), bad = Read(bench, 3);
    std::vector<int32_t> asked = question;
    asked.push_back(token);
    Reply one, two;
    bench.Ask(bad, asked, &one, params);
    bench.Ask(other, question, &two, params);
    bench.Run();
    ExpectNoNumber(one.result.status, kDocument + kQuestion + 1);
    ASSERT_TRUE(two.result.status.ok()) << two.result.status;
    ExpectSame(clean, two, Tolerance());

    params.keep = true;  // into the session's own pages, which then are rewound
    ExpectNoNumber(Ask(bench, bad, asked, params).result.status, kDocument + kQuestion + 1);
    params.keep = false;
    ASSERT_TRUE(bench.engine->Rewind(bad, kDocument).ok());
    ExpectSame(clean, Ask(bench, bad, question, params), Tolerance());

    bench.Append(bad, std::vector<int32_t>(2 * kPageTokens + 3, token));  // full of it
    bench.Run();
    ASSERT_TRUE(bench.engine->CloseSession(bad).ok());
    ASSERT_TRUE(bench.engine->CloseSession(other).ok());
  }
}

}  // namespace
}  // namespace duo
