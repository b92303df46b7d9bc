// Texts that arrive: what all of them together may hold, how long one may be silent, and what is refused by its size.
#include "tests/unit/serve/service_fixture.h"

namespace duo {
namespace {

class Uploads : public ServiceFixture {
 protected:
  // An upload that has sent this text and stays open.
  struct Open {
    AppendClient client;
    std::shared_ptr<AppendJob> job;
  };
  std::unique_ptr<Open> Begin(const std::string& session, const std::string& append_id, const std::string& text) {
    auto open = std::make_unique<Open>();
    open->job = MakeAppend(open->client);
    open->job->Start(caller_);
    open->client.WaitForRead(1);
    open->job->Take({.session_id = session, .append_id = append_id, .text = text});
    open->client.WaitForRead(2);
    return open;
  }
};

TEST_F(Uploads, AllTogetherHoldNoMoreThanTheLimit) {
  options_.max_upload_bytes = 10000;
  Serve();
  std::vector<std::unique_ptr<Open>> open;
  for (int i = 0; i < 3; ++i) {
    const std::string id = "doc" + std::to_string(i);
    ASSERT_TRUE(Create(id).ok());
    open.push_back(Begin(id, i == 0 ? "" : "a", std::string(4000, 'x')));
  }
  EXPECT_FALSE(open[0]->client.ended());
  EXPECT_FALSE(open[1]->client.ended());
  const absl::Status third = open[2]->client.Wait();
  EXPECT_EQ(third.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(third.message()).find("--max-upload-bytes"), std::string::npos) << third;
  open[0]->job->Cancel();
  EXPECT_EQ(open[0]->client.Wait().code(), absl::StatusCode::kCancelled);
  open[0] = nullptr;
  open[1]->job->TakeEnd();  // read or refused for its length, its text is gone
  open[1]->client.Wait().IgnoreError();
  open[1] = nullptr;
  EXPECT_TRUE(Append("doc2", Text(40, 1)).ok());
}

TEST_F(Uploads, OneThatIsSilentIsGivenUp) {
  options_.upload_seconds = 0.2;
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Create("other").ok());
  auto held = Begin("doc", "a", "some text"), anonymous = Begin("other", "", "some text");
  EXPECT_EQ(held->client.Wait().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(anonymous->client.Wait().code(), absl::StatusCode::kAborted);
  while (Get("doc")->append.has_value()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  // Broken off and never repeated: the same.
  auto broken = Begin("doc", "b", "some text");
  broken->job->Cancel();
  broken->client.Wait().IgnoreError();
  while (Get("doc")->append.has_value()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(Append("doc", Text(40, 1)).ok());
}

TEST_F(Uploads, WhatCanNeverFitIsRefusedBeforeAllOfItIsSent) {
  Serve();
  ASSERT_TRUE(Create("doc", 100).ok());
  AppendClient client;
  auto job = MakeAppend(client);
  job->Start(caller_);
  client.WaitForRead(1);
  job->Take({.session_id = "doc"});
  client.WaitForRead(2);
  for (int piece = 0; piece < 1000 && !client.ended(); ++piece) {
    job->Take({.offset = piece * int64_t{10000}, .text = std::string(10000, 'x')});
    client.WaitForRead(piece + 3);
  }
  ASSERT_TRUE(client.ended());
  const absl::Status refused = client.Wait();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(refused.message()).find("at most 100"), std::string::npos) << refused;
  const absl::Status tokens = Append({{.session_id = "doc", .tokens = std::vector<int32_t>(101, 5)}});
  EXPECT_EQ(tokens.code(), absl::StatusCode::kResourceExhausted) << tokens;
}

TEST_F(Uploads, RewindsPassTheQueueLimitToo) {
  options_.max_queue = 4;
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(40, 1)).ok());
  AskClient answering;
  auto job = StartAsk(
      answering, {.session_id = "doc", .text = "x", .max_new_tokens = 400, .keep = true, .ignore_end_tokens = true});
  answering.WaitForMessages(1);
  std::vector<std::unique_ptr<Awaited<SessionView>>> rewound;
  for (int i = 0; i < 20; ++i) {
    rewound.push_back(std::make_unique<Awaited<SessionView>>());
    StartRewind(context(), caller_, {"doc", 0}, rewound.back()->Finish());
  }
  int refused = 0;
  for (auto& one : rewound) refused += one->Wait().status().code() == absl::StatusCode::kResourceExhausted;
  EXPECT_GE(refused, 16);
  answering.Wait().IgnoreError();
}

}  // namespace
}  // namespace duo
