// Appends: pieces and their offsets, retries, limits, and that a piece is asked for only when the last one is taken.
#include "tests/unit/serve/service_fixture.h"

namespace duo {
namespace {

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

TEST_F(ServiceFixture, PiecesTokeniseAsOneText) {
  Serve();
  ASSERT_TRUE(Create("one").ok());
  ASSERT_TRUE(Create("three").ok());
  const std::string text = Text(50, 3);
  AppendUpdate last;
  ASSERT_TRUE(Append({{.session_id = "one", .text = text}}, &last).ok());
  EXPECT_TRUE(last.done);
  EXPECT_EQ(last.received_bytes, static_cast<int64_t>(text.size()));
  EXPECT_EQ(last.tokens, last.total_tokens);
  ASSERT_TRUE(last.session.has_value());
  EXPECT_EQ(last.session->tokens, last.tokens);
  ASSERT_TRUE(last.stats.has_value());
  ASSERT_TRUE(Append({{.session_id = "three", .text = text.substr(0, 11)},
                      {.offset = 5, .text = text.substr(5, 40)},  // overlaps: compared, not added twice
                      {.offset = 45, .text = text.substr(45)}})
                  .ok());
  EXPECT_EQ(Get("one")->tokens, Get("three")->tokens);
}

TEST_F(ServiceFixture, TheNextPieceIsAskedForWhenTheLastOneIsTaken) {
  Serve(/*run=*/false);
  AppendClient client;
  auto job = MakeAppend(client);
  job->Start(caller_);
  EXPECT_EQ(client.reads(), 1);
  job->Take({.session_id = "doc", .text = "first"});
  EXPECT_EQ(client.reads(), 1);  // the engine's thread has not opened it yet
  EXPECT_TRUE(client.messages().empty());
  Awaited<SessionView> created;
  server_->Run();
  EXPECT_EQ(client.Wait().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(client.reads(), 1);
}

TEST_F(ServiceFixture, BadPiecesAreRefusedWithASentence) {
  options_.max_append_bytes = 64;
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  EXPECT_EQ(Append({}).code(), kInvalid);
  EXPECT_EQ(Append({{.text = "no session"}}).code(), kInvalid);
  EXPECT_EQ(Append({{.session_id = "doc", .append_id = std::string(65, 'a'), .text = "x"}}).code(), kInvalid);
  EXPECT_EQ(Append({{.session_id = "doc", .text = "x", .tokens = {1}}}).code(), kInvalid);
  EXPECT_EQ(Append({{.session_id = "doc", .text = "x"}, {.tokens = {1}}}).code(), kInvalid);
  EXPECT_EQ(Append({{.session_id = "doc", .offset = 1, .text = "x"}}).code(), kInvalid);
  EXPECT_EQ(Append({{.session_id = "doc", .text = "abc"}, {.offset = 1, .text = "X"}}).code(), kInvalid);
  EXPECT_EQ(Append({{.session_id = "doc", .tokens = {static_cast<int32_t>(context().vocab)}}}).code(), kInvalid);
  EXPECT_EQ(Append({{.session_id = "doc"}}).code(), kInvalid);  // no text at all
  EXPECT_EQ(Append("doc", std::string(65, 'x')).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Append({{.session_id = "doc", .tokens = std::vector<int32_t>(17, 1)}}).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Get("doc")->tokens, 0);
  EXPECT_TRUE(Append("doc", "and still it takes text").ok());
}

TEST_F(ServiceFixture, ABrokenUploadGoesOnWhereItStopped) {
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Create("whole").ok());
  const std::string text = Text(60, 5);
  {
    AppendClient client;
    auto job = MakeAppend(client);
    job->Start(caller_);
    job->Take({.session_id = "doc", .append_id = "a", .text = text.substr(0, 100)});
    client.WaitForRead(2);
    job->Cancel();
    EXPECT_EQ(client.Wait().code(), absl::StatusCode::kCancelled);
  }
  ASSERT_TRUE(Get("doc")->append.has_value());
  EXPECT_EQ(Get("doc")->append->received_bytes, 100);
  EXPECT_FALSE(Get("doc")->append->received_all);
  ASSERT_TRUE(Append({{.session_id = "doc", .append_id = "a", .offset = 90, .text = text.substr(90)}}).ok());
  ASSERT_TRUE(Append("whole", text).ok());
  EXPECT_EQ(Get("doc")->tokens, Get("whole")->tokens);
  AppendUpdate again;  // complete: answers at once, whatever is sent
  ASSERT_TRUE(Append({{.session_id = "doc", .append_id = "a", .text = "anything"}}, &again).ok());
  EXPECT_TRUE(again.done);
  EXPECT_EQ(Get("doc")->tokens, Get("whole")->tokens);
}

TEST_F(ServiceFixture, ACancelledAppendWithAnIdIsTakenUpAgainAndOneWithoutIsUndone) {
  Serve();
  const std::string text = Text(400, 6);
  for (const char* id : {"", "a"}) {
    const std::string name = std::string("doc") + id;
    ASSERT_TRUE(Create(name, 2000).ok());
    ASSERT_TRUE(Append(name, Text(10, 1)).ok());
    const int64_t before = Get(name)->tokens;
    AppendClient client(/*eager=*/true);
    auto job = MakeAppend(client);
    job->Start(caller_);
    job->Take({.session_id = name, .append_id = id, .text = text});
    client.WaitForRead(2);
    job->TakeEnd();
    while (!client.ended() && Get(name)->tokens == before) std::this_thread::yield();
    job->Cancel();
    if (client.Wait().ok()) GTEST_SKIP() << "read before it could be cancelled";
    if (*id == '\0') {
      EXPECT_EQ(Get(name)->tokens, before);
      EXPECT_FALSE(Get(name)->append.has_value());
    } else {
      EXPECT_GT(Get(name)->tokens, before);
      EXPECT_FALSE(Get(name)->append->done);
      ASSERT_TRUE(Append({{.session_id = name, .append_id = id}}).ok());
      EXPECT_TRUE(Get(name)->append->done);
    }
  }
}

}  // namespace
}  // namespace duo
