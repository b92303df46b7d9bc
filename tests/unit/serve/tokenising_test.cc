// The tokens of an append's text are made by the workers, and nobody else waits for them: not the call's transport, not
// the engine's thread, and so no other call.
#include <future>
#include <utility>

#include "tests/unit/serve/service_fixture.h"

namespace duo {
namespace {

class Tokenising : public ServiceFixture {
 protected:
  void TearDown() override {
    LetWorkersGo();  // the server's end waits for them
    ServiceFixture::TearDown();
  }
  // Every worker waits until LetWorkersGo, and so does what is posted behind these.
  void HoldWorkers() {
    constexpr int kJobs = 16;  // more than there are workers
    const std::shared_future<void> free = free_.get_future().share();
    for (int i = 0; i < kJobs; ++i) ASSERT_TRUE(context().workers->Post(1, [free] { free.wait(); }));
    held_ = true;
  }
  void LetWorkersGo() {
    if (std::exchange(held_, false)) free_.set_value();
  }

 private:
  bool held_ = false;
  std::promise<void> free_;
};

TEST_F(Tokenising, NobodyWaitsForTheTokensOfAnothersText) {
  Serve();
  for (const char* id : {"doc", "anonymous", "other"}) ASSERT_TRUE(Create(id).ok());
  ASSERT_TRUE(Append("other", Text(50, 1)).ok());
  const int64_t tokens = Get("other")->tokens;
  HoldWorkers();
  AppendClient clients[2];
  std::shared_ptr<AppendJob> jobs[2];
  for (int i = 0; i < 2; ++i) {
    jobs[i] = MakeAppend(clients[i]);
    jobs[i]->Start(caller_);
    jobs[i]->Take({.session_id = i == 0 ? "doc" : "anonymous", .append_id = i == 0 ? "a" : "", .text = Text(100, 2)});
    clients[i].WaitForRead(2);
    jobs[i]->TakeEnd();
  }
  for (int round = 0; round < 3; ++round) {  // the engine's thread has seen the ends of both by now
    Awaited<std::vector<SessionView>> listed;
    StartList(context(), caller_, listed.Finish());
    const absl::StatusOr<std::vector<SessionView>> all = listed.Wait();
    ASSERT_TRUE(all.ok()) << all.status();
    EXPECT_EQ(all->size(), 3);
    EXPECT_EQ(Get("other")->tokens, tokens);
    EXPECT_EQ(Stats().engine.sessions, 3);
  }
  ASSERT_TRUE(Create("more").ok());
  ASSERT_TRUE(Close("other").ok());
  EXPECT_FALSE(clients[0].ended() || clients[1].ended()) << "somebody else made the tokens";
  EXPECT_EQ(Get("doc")->tokens + Get("anonymous")->tokens, 0);
  LetWorkersGo();
  for (AppendClient& client : clients) {
    const absl::Status read = client.Wait();
    EXPECT_TRUE(read.ok()) << read;
  }
  EXPECT_GT(Get("doc")->tokens, 0);
  EXPECT_EQ(Get("doc")->tokens, Get("anonymous")->tokens);
}

}  // namespace
}  // namespace duo
