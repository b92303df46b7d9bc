// Questions: what is refused, what comes in which messages, and what a client who is slow or gone costs.
#include "tests/unit/serve/service_fixture.h"

namespace duo {
namespace {

std::string TextOf(const std::vector<AskUpdate>& messages) {
  std::string text;
  for (const AskUpdate& message : messages) text += message.text;
  return text;
}
std::vector<int32_t> TokensOf(const std::vector<AskUpdate>& messages) {
  std::vector<int32_t> tokens;
  for (const AskUpdate& message : messages) tokens.insert(tokens.end(), message.tokens.begin(), message.tokens.end());
  return tokens;
}

TEST_F(ServiceFixture, AnAnswerComesInPiecesAndEndsWithItsFigures) {
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(60, 1)).ok());
  AskClient client;
  auto job = StartAsk(client, {.session_id = "doc", .text = " question", .max_new_tokens = 12});
  ASSERT_TRUE(client.Wait().ok());
  const std::vector<AskUpdate> messages = client.messages();
  ASSERT_FALSE(messages.empty());
  for (size_t i = 0; i + 1 < messages.size(); ++i) EXPECT_FALSE(messages[i].done);
  const AskUpdate& last = messages.back();
  EXPECT_TRUE(last.done);
  EXPECT_EQ(last.finish, "length");
  EXPECT_EQ(last.stats.new_tokens, 12);
  EXPECT_EQ(last.stats.history_tokens, Get("doc")->tokens);
  EXPECT_EQ(TokensOf(messages).size(), 12u);
  EXPECT_FALSE(TextOf(messages).empty());
}

TEST_F(ServiceFixture, ASlowClientGetsTheSameAnswerInFewerMessages) {
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(60, 1)).ok());
  const AskRequest request{.session_id = "doc", .text = " question", .max_new_tokens = 16};
  AskClient quick, slow(/*eager=*/false);
  auto quick_job = StartAsk(quick, request);
  ASSERT_TRUE(quick.Wait().ok());
  auto slow_job = StartAsk(slow, request);
  slow.WaitForMessages(1);
  AskClient other;  // who reads is answered beside it
  auto other_job = StartAsk(other, request);
  ASSERT_TRUE(other.Wait().ok());
  while (Stats().engine.running > 0) std::this_thread::yield();
  EXPECT_EQ(slow.messages().size(), 1u);
  EXPECT_FALSE(slow.ended());
  slow_job->Written(true);
  slow.WaitForMessages(2);
  slow_job->Written(true);
  ASSERT_TRUE(slow.Wait().ok());
  EXPECT_EQ(slow.messages().size(), 2u);
  EXPECT_EQ(TextOf(slow.messages()), TextOf(quick.messages()));
  EXPECT_EQ(TokensOf(slow.messages()), TokensOf(quick.messages()));
}

TEST_F(ServiceFixture, AnAnswerThatWaitsForItsReaderDoesNotRunAheadOfIt) {
  Serve();
  AskRequest request{.alone = true, .tokens = {1, 2, 3}, .max_new_tokens = 200, .ignore_end_tokens = true};
  AskClient quick, slow(/*eager=*/false);
  auto quick_job = StartAsk(quick, request);
  ASSERT_TRUE(quick.Wait().ok());
  request.waits_for_reader = true;
  auto slow_job = StartAsk(slow, request);
  slow.WaitForMessages(1);
  const int64_t before = Stats().engine.decode_tokens;
  AskClient other;  // who reads is answered beside it, however long
  request.max_new_tokens = 300;
  auto other_job = StartAsk(other, request);
  ASSERT_TRUE(other.Wait().ok());
  const int64_t drawn = Stats().engine.decode_tokens - before - 300;
  EXPECT_EQ(Stats().engine.running, 1);
  EXPECT_LT(drawn, 100) << "of the 200";
  size_t taken = 1;
  for (; !slow.ended(); ++taken) {
    slow_job->Written(true);
    slow.WaitForMessages(taken + 1);
  }
  ASSERT_TRUE(slow.Wait().ok());
  EXPECT_GE(slow.messages().size(), 3u);
  EXPECT_EQ(TextOf(slow.messages()), TextOf(quick.messages()));
  EXPECT_EQ(TokensOf(slow.messages()), TokensOf(quick.messages()));
}

TEST_F(ServiceFixture, SeveralAnswersAreOfOneReadingAndHaveASeedEach) {
  Serve();
  AskRequest request{.alone = true, .max_new_tokens = 12, .temperature = 2, .seed = 7, .ignore_end_tokens = true};
  for (int i = 0; i < 300; ++i) request.tokens.push_back(i);
  std::vector<std::string> alone;
  for (int i = 0; i < 3; ++i, ++request.seed) {
    AskClient client;
    auto job = StartAsk(client, request);
    ASSERT_TRUE(client.Wait().ok());
    alone.push_back(TextOf(client.messages()));
  }
  request.seed = 7;
  const int64_t before = Stats().engine.prefill_tokens;
  AskClient clients[3];
  auto job = std::make_shared<AskJob>(
      context(),
      std::vector<CallTransport<AskUpdate>>{clients[0].Transport(), clients[1].Transport(), clients[2].Transport()});
  for (size_t i = 0; i < 3; ++i) {
    clients[i].written = [&job, i](bool ok) { job->Written(ok, i); };
  }
  job->Start(caller_, request);
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(clients[i].Wait().ok());
    EXPECT_EQ(TextOf(clients[i].messages()), alone[i]) << i;
  }
  EXPECT_EQ(Stats().engine.prefill_tokens - before, 302);
  EXPECT_NE(alone[0], alone[1]);

  request.max_new_tokens = 900;
  AskClient gone[2];
  job = std::make_shared<AskJob>(context(),
                                 std::vector<CallTransport<AskUpdate>>{gone[0].Transport(), gone[1].Transport()});
  for (size_t i = 0; i < 2; ++i) gone[i].written = [&job, i](bool ok) { job->Written(ok, i); };
  job->Start(caller_, request);
  gone[1].WaitForMessages(1);
  job->Cancel();
  for (AskClient& client : gone) EXPECT_EQ(client.Wait().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Stats().engine.running, 0);
}

TEST_F(ServiceFixture, AStopTextEndsTheAnswerBeforeIt) {
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(60, 1)).ok());
  AskRequest request{.session_id = "doc", .text = " question", .max_new_tokens = 16};
  AskClient whole, cut;
  auto whole_job = StartAsk(whole, request);
  ASSERT_TRUE(whole.Wait().ok());
  const std::string text = TextOf(whole.messages());
  ASSERT_GT(text.size(), 6u);
  request.stop = {text.substr(text.size() / 2, 3)};
  auto cut_job = StartAsk(cut, request);
  ASSERT_TRUE(cut.Wait().ok());
  EXPECT_EQ(TextOf(cut.messages()), text.substr(0, text.find(request.stop[0])));
  EXPECT_EQ(cut.messages().back().finish, "stop");
}

TEST_F(ServiceFixture, BadQuestionsAreRefusedWithASentence) {
  options_.max_new_tokens = 100;
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  const auto code = [this](const AskRequest& request) {
    AskClient client;
    auto job = StartAsk(client, request);
    const absl::Status status = client.Wait();
    EXPECT_TRUE(client.messages().empty());
    EXPECT_FALSE(status.message().empty());
    return status.code();
  };
  const AskRequest good{.session_id = "doc", .text = "x", .max_new_tokens = 1};
  const auto with = [&good](auto change) {
    AskRequest request = good;
    change(request);
    return request;
  };
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code(with([](auto& r) { r.text = ""; })), invalid);
  EXPECT_EQ(code(with([](auto& r) { r.tokens = {1}; })), invalid);
  EXPECT_EQ(code(with([](auto& r) { r.max_new_tokens = 101; })), invalid);
  EXPECT_EQ(code(with([](auto& r) { r.max_new_tokens = -1; })), invalid);
  EXPECT_EQ(code(with([](auto& r) { r.temperature = -0.1f; })), invalid);
  EXPECT_EQ(code(with([](auto& r) { r.temperature = std::nanf(""); })), invalid);
  EXPECT_EQ(code(with([](auto& r) { r.top_p = 1.5f; })), invalid);
  EXPECT_EQ(code(with([](auto& r) { r.stop.assign(17, "x"); })), invalid);
  EXPECT_EQ(code(with([](auto& r) { r.stop = {""}; })), invalid);
  EXPECT_EQ(code(with([](auto& r) { r.stop = {std::string(257, 'x')}; })), invalid);
  for (int32_t token : {-1, static_cast<int32_t>(context().vocab)}) {
    EXPECT_EQ(code(with([&](auto& r) {
                r.text = "";
                r.tokens = {token};
              })),
              invalid);
  }
  EXPECT_EQ(code(with([](auto& r) { r.session_id = "nobody"; })), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(with([](auto& r) { r.session_id = "a/b"; })), invalid);
  EXPECT_EQ(Stats().refused, 14);
}

TEST_F(ServiceFixture, ACancelledQuestionEndsAndGivesItsRoomBack) {
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(60, 1)).ok());
  const int64_t room = Stats().engine.pages_available;
  AskClient client;
  auto job = StartAsk(client, {.session_id = "doc", .text = " question", .max_new_tokens = 900});
  client.WaitForMessages(1);
  job->Cancel();
  EXPECT_EQ(client.Wait().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Stats().engine.pages_available, room);
  EXPECT_EQ(Stats().engine.running, 0);
  EXPECT_FALSE(client.messages().back().done);
  job->Cancel();  // after the end: nothing
  EXPECT_EQ(Get("doc")->pending, 0);
}

TEST_F(ServiceFixture, AClientWithoutTheTokenIsTurnedAwayOnEveryCall) {
  std::filesystem::create_directories(scratch_);
  const std::string file = (scratch_ / "tokens").string();
  FILE* out = fopen(file.c_str(), "w");
  ASSERT_NE(out, nullptr);
  fputs("0123456789abcdef\n", out);
  fclose(out);
  std::filesystem::permissions(file, std::filesystem::perms::owner_read);
  options_.token_file = file;
  Serve();
  const absl::StatusCode no = absl::StatusCode::kUnauthenticated;
  for (const char* header : {"", "Bearer 0123456789abcdeX", "0123456789abcdef"}) {
    caller_.authorization = header;
    EXPECT_EQ(Create("doc").status().code(), no);
    EXPECT_EQ(Get("doc").status().code(), no);
    EXPECT_EQ(Close("doc").code(), no);
    EXPECT_EQ(Append("doc", "text").code(), no);
    EXPECT_EQ(Tokenize("text").status().code(), no);
    AskClient client;
    auto job = StartAsk(client, {.session_id = "doc", .text = "x"});
    EXPECT_EQ(client.Wait().code(), no);
    Awaited<DrainResult> drained;
    StartDrain(context(), caller_, {}, drained.Finish());
    EXPECT_EQ(drained.Wait().status().code(), no);
  }
  caller_.authorization = "Bearer 0123456789abcdef";
  EXPECT_TRUE(Create("doc").ok());
}

TEST_F(ServiceFixture, AnAnswerIsWhatItIsAskedToBe) {
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(60, 1)).ok());
  AskClient client;
  auto job = StartAsk(client, {.session_id = "doc",
                               .text = " question",
                               .temperature = 1,
                               .guide = {Guide::Kind::kRegex, "(yes|no), [0-9]{3}"}});
  ASSERT_TRUE(client.Wait().ok());
  const std::string text = TextOf(client.messages());
  EXPECT_TRUE((text.starts_with("yes, ") && text.size() == 8) || (text.starts_with("no, ") && text.size() == 7))
      << text;
  EXPECT_EQ(client.messages().back().finish, "stop");

  AskClient refused;
  auto refused_job =
      StartAsk(refused, {.session_id = "doc", .text = " question", .guide = {Guide::Kind::kJsonSchema, "{"}});
  EXPECT_EQ(refused.Wait().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ServiceFixture, ScoresComeWithTheirTokens) {
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(60, 1)).ok());
  AskClient client;
  AskRequest request{.session_id = "doc", .text = " a question of some tokens", .max_new_tokens = 9};
  request.rules.scores = 2;
  request.rules.prompt_scores = 0;
  auto job = StartAsk(client, request);
  ASSERT_TRUE(client.Wait().ok());
  std::vector<int32_t> tokens;
  int64_t prompt = 0;
  for (const AskUpdate& message : client.messages()) {
    ASSERT_EQ(message.scores.size(), message.tokens.size());
    for (size_t i = 0; i < message.tokens.size(); ++i) {
      EXPECT_EQ(message.scores[i].chosen.token, message.tokens[i]);
      EXPECT_EQ(message.scores[i].best.size(), 2u);
      EXPECT_EQ(message.scores[i].best[0].token, message.tokens[i]);  // greedy
    }
    prompt += static_cast<int64_t>(message.prompt_scores.size());
  }
  EXPECT_EQ(prompt, client.messages().back().stats.prompt_tokens - 1);
}

}  // namespace
}  // namespace duo
