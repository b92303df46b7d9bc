// The calls with one answer, the drain, and many clients at once.
#include <atomic>

#include "kernels/base/splitmix64.h"
#include "tests/unit/serve/service_fixture.h"

namespace duo {
namespace {

TEST_F(ServiceFixture, ASessionsLifeInCalls) {
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  EXPECT_EQ(Create("doc").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Create("a b").status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Append("doc", Text(40, 1)).ok());
  const int64_t tokens = Get("doc")->tokens;

  Awaited<SessionView> forked, rewound, refused;
  StartFork(context(), caller_, {"doc", "fork", 0}, forked.Finish());
  ASSERT_TRUE(forked.Wait().ok());
  StartRewind(context(), caller_, {"fork", tokens / 2}, rewound.Finish());
  EXPECT_EQ(rewound.Wait()->tokens, tokens / 2);
  StartRewind(context(), caller_, {"fork", tokens}, refused.Finish());
  EXPECT_EQ(refused.Wait().status().code(), absl::StatusCode::kInvalidArgument);

  Awaited<SaveDone> saved, restored;
  StartSave(context(), caller_, {"doc"}, saved.Finish());
  ASSERT_TRUE(saved.Wait().ok());
  EXPECT_GT(saved.Wait()->bytes_total, 0);
  ASSERT_TRUE(Close("doc").ok());
  EXPECT_EQ(Get("doc")->residence, Residence::kSaved);
  StartRestore(context(), caller_, {"doc", "", 0}, restored.Finish());
  ASSERT_TRUE(restored.Wait().ok()) << restored.Wait().status();
  EXPECT_EQ(restored.Wait()->session.tokens, tokens);

  Awaited<std::vector<SessionView>> list;
  StartList(context(), caller_, list.Finish());
  ASSERT_EQ(list.Wait()->size(), 2u);
  EXPECT_EQ(list.Wait()->front().id, "doc");
  EXPECT_TRUE(Close("doc", /*delete_saved=*/true).ok());
  EXPECT_EQ(Get("doc").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ServiceFixture, PlanAndTokensAreTold) {
  Serve();
  Awaited<ClusterPlan> plan;
  StartPlan(context(), caller_, plan.Finish());
  ASSERT_TRUE(plan.Wait().ok());
  EXPECT_EQ(plan.Wait()->world, 1);
  ASSERT_EQ(plan.Wait()->ranks.size(), 1u);
  EXPECT_EQ(plan.Wait()->ranks[0].whole, plan.Wait()->retrieval_heads);
  EXPECT_EQ(plan.Wait()->ranks[0].streaming, plan.Wait()->streaming_heads);
  EXPECT_EQ(plan.Wait()->max_session_tokens, 2048);
  EXPECT_EQ(Tokenize("some text").value(), context().Encode("some text", false).value());
}

TEST_F(ServiceFixture, ASessionWhoseMakerIsGoneIsClosedAgain) {
  Serve(/*run=*/false);
  Awaited<SessionView> created;
  UnaryCallPtr call = StartCreate(context(), caller_, {"doc", 100, false}, created.Finish());
  call->Cancel();
  server_->Run();
  EXPECT_EQ(created.Wait().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Get("doc").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ServiceFixture, ADrainSavesRefusesAndEnds) {
  Serve();
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(40, 1)).ok());
  std::atomic<bool> told{false};
  Awaited<DrainResult> bad, drained, again;
  StartDrain(context(), caller_, {-1}, bad.Finish());
  EXPECT_EQ(bad.Wait().status().code(), absl::StatusCode::kInvalidArgument);
  StartDrain(context(), caller_, {}, drained.Finish());
  ASSERT_TRUE(drained.Wait().ok());
  EXPECT_EQ(drained.Wait()->saved, 1);
  EXPECT_TRUE(server_->Wait().ok());
  EXPECT_EQ(Create("late").status().code(), absl::StatusCode::kUnavailable);
  StartDrain(context(), caller_, {}, again.Finish());
  EXPECT_EQ(again.Wait()->saved, 1);

  server_ = nullptr;
  Serve();
  EXPECT_EQ(Get("doc")->residence, Residence::kMovedOut);
  Awaited<SaveDone> restored;
  StartRestore(context(), caller_, {"doc", "", 0}, restored.Finish());
  EXPECT_EQ(restored.Wait().status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(restored.Wait().status().message().find("the next call on it brings it back"), std::string::npos);
  AskClient client;
  auto job = StartAsk(client, {.session_id = "doc", .text = "x", .max_new_tokens = 1});
  EXPECT_TRUE(client.Wait().ok());
  EXPECT_EQ(Get("doc")->residence, Residence::kOpen);
}

// What one client does: opens a session, reads into it, asks, and gives up half of its calls at any moment.
class Visitor {
 public:
  Visitor(CallContext& context, int number) : context_(context), number_(number), random_(number + 1) {}

  void Run() {
    for (int round = 0; round < 6; ++round) {
      const std::string id = "v" + std::to_string(number_) + "-" + std::to_string(round);
      Awaited<SessionView> created;
      StartCreate(context_, {}, {id, 400, false}, created.Finish());
      if (!created.Wait().ok()) continue;  // no room now
      ReadInto(id);
      Ask(id);
      Awaited<CloseAnswer> closed;
      StartClose(context_, {}, {id, false}, closed.Finish());
      EXPECT_TRUE(closed.Wait().ok());
    }
  }

 private:
  bool Coin() { return SplitMix64(random_++) % 2 == 0; }

  void ReadInto(const std::string& id) {
    Client<AppendUpdate> client;
    auto job = std::make_shared<AppendJob>(context_, client.Transport());
    client.written = [job = job.get()](bool ok) { job->Written(ok); };
    job->Start({});
    job->Take({.session_id = id, .text = " some words of a document"});
    client.WaitForRead(2);
    if (Coin()) job->Cancel();
    if (Coin()) {
      std::thread end([&] { job->TakeEnd(); });  // a transport's threads: the end and a cancellation may meet
      if (Coin()) job->Cancel();
      end.join();
    } else {
      job->Cancel();
    }
    client.Wait().IgnoreError();
  }
  void Ask(const std::string& id) {
    Client<AskUpdate> client(/*eager=*/true);
    auto job = std::make_shared<AskJob>(context_, client.Transport());
    client.written = [job = job.get()](bool ok) { job->Written(ok); };
    job->Start({}, {.session_id = id, .text = " words", .max_new_tokens = 3});
    if (Coin()) job->Cancel();
    client.Wait().IgnoreError();
  }

  CallContext& context_;
  const int number_;
  uint64_t random_;
};

TEST_F(ServiceFixture, ManyClientsComeAndGoAndNothingIsLeftBehind) {
  Serve();
  const ClusterStats before = Stats();
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) threads.emplace_back([this, i] { Visitor(context(), i).Run(); });
  for (std::thread& thread : threads) thread.join();
  const ClusterStats after = Stats();
  EXPECT_EQ(after.engine.pages_available, before.engine.pages_available);
  EXPECT_EQ(after.engine.rings_free, before.engine.rings_free);
  EXPECT_EQ(after.sessions.open, 0);
  EXPECT_EQ(after.sessions.calls, 0);
}

}  // namespace
}  // namespace duo
