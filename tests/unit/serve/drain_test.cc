// The server's end: what is on disk is counted, what is not is said, and nothing is called saved that is not.
#include <filesystem>
#include <fstream>

#include "tests/unit/serve/service_fixture.h"

namespace duo {
namespace {

class Drains : public ServiceFixture {
 protected:
  void ServeOne() {
    Serve();
    ASSERT_TRUE(Create("doc").ok());
    ASSERT_TRUE(Append("doc", Text(40, 1)).ok());
  }
  absl::StatusOr<DrainResult> Drain(double grace = 0) {
    Awaited<DrainResult> drained;
    StartDrain(context(), caller_, {grace}, drained.Finish());
    return drained.Wait();
  }
  // Where the save directory was is a file now.
  void BreakDisk() {
    std::filesystem::remove_all(scratch_);
    std::ofstream(scratch_) << "in the way";
  }
};

TEST_F(Drains, OneThatCannotSaveSaysWhatAndServesOn) {
  ServeOne();
  ASSERT_TRUE(Create("other").ok());
  BreakDisk();
  const absl::StatusOr<DrainResult> drained = Drain();
  EXPECT_EQ(drained.status().code(), absl::StatusCode::kFailedPrecondition);
  for (const char* said : {"doc (", "other (", "of 2 sessions"}) {
    EXPECT_NE(std::string(drained.status().message()).find(said), std::string::npos) << drained.status();
  }
  EXPECT_FALSE(Stats().draining);
  EXPECT_TRUE(Append("doc", "more").ok());
  AskClient client;
  auto job = StartAsk(client, {.session_id = "doc", .text = "x", .max_new_tokens = 1});
  EXPECT_TRUE(client.Wait().ok());
  server_->Drain(true);  // a second signal
  const absl::Status ended = server_->Wait();
  EXPECT_NE(std::string(ended.message()).find("doc ("), std::string::npos) << ended;
}

TEST_F(Drains, WithoutADirectorySaysWhatIsGone) {
  options_.save_dir = "";
  ServeOne();
  const absl::StatusOr<DrainResult> drained = Drain();
  ASSERT_TRUE(drained.ok()) << drained.status();
  EXPECT_EQ(drained->saved, 0);
  ASSERT_EQ(drained->dropped.size(), 1u);
  EXPECT_EQ(drained->dropped[0].id, "doc");
  EXPECT_GT(drained->dropped[0].tokens, 40);
  EXPECT_TRUE(server_->Wait().ok());
}

TEST_F(Drains, ACallIsCountedOnceHoweverLongItTakesToEnd) {
  options_.checkpoint_tokens = 128;
  Serve();
  ASSERT_TRUE(Create("doc", 2048, true).ok());
  AppendClient client;
  auto job = MakeAppend(client);
  job->Start(caller_);
  client.WaitForRead(1);
  job->Take({.session_id = "doc", .append_id = "a", .text = Text(450, 1)});
  client.WaitForRead(2);
  job->TakeEnd();
  while (Get("doc")->tokens < 128) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const absl::StatusOr<DrainResult> drained = Drain(1e-9);  // grace is over at every look
  ASSERT_TRUE(drained.ok()) << drained.status();
  EXPECT_LE(drained->cancelled, 1);
  EXPECT_EQ(client.Wait().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace duo
