// A disk that takes as long as the test likes: while it does, answers are written on, and calls that need no disk are
// answered. Nothing here depends on how long anything takes.
#include <atomic>

#include "tests/unit/serve/service_fixture.h"

namespace duo {
namespace {

// The machine's disk behind a gate. While it is shut every call waits at it.
class GatedDisk {
 public:
  GatedDisk() {
    files_ = RealFiles();
    Guard(&files_.open);
    Guard(&files_.read);
    Guard(&files_.write);
    Guard(&files_.sync);
    Guard(&files_.info_of);
    Guard(&files_.info);
    Guard(&files_.truncate);
    Guard(&files_.rename);
    Guard(&files_.link);
    Guard(&files_.unlink);
    Guard(&files_.make_directory);
    Guard(&files_.list);
  }
  const FileSystem& files() const { return files_; }
  void Shut() {
    std::lock_guard lock(mutex_);
    shut_ = true;
    came_ = 0;
  }
  void Open() {
    std::lock_guard lock(mutex_);
    shut_ = false;
    changed_.notify_all();
  }
  // Since it was shut.
  void WaitUntilSomebodyCame() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [this] { return came_ > 0; }));
  }

 private:
  template <typename Result, typename... Args>
  void Guard(std::function<Result(Args...)>* call) {
    *call = [this, real = *call](Args... args) {
      Pass();
      return real(args...);
    };
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    if (!shut_) return;
    ++came_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !shut_; });
  }
  FileSystem files_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool shut_ = false;
  int came_ = 0;
};

class SlowDisk : public ServiceFixture {
 protected:
  static constexpr int kMore = 20;  // parts of an answer that come while the disk stands still

  SlowDisk() {
    files_ = &disk_.files();
    max_session_tokens_ = 4096;
    kv_tokens_ = 16384;
  }
  void SetUp() override {
    ServiceFixture::SetUp();
    Serve();
    ASSERT_TRUE(Create("talk", 4096).ok());
    ASSERT_TRUE(Append("talk", Text(100, 1)).ok());
    ASSERT_TRUE(Create("doc", 1024, true).ok());
    ASSERT_TRUE(Append("doc", Text(100, 2)).ok());
    ASSERT_TRUE(Create("plain", 1024, false).ok());
    ASSERT_TRUE(Append("plain", Text(100, 3)).ok());
  }
  void TearDown() override {
    disk_.Open();
    ServiceFixture::TearDown();
  }
  // Begins `call` while an answer is being written and the disk stands still: the answer goes on, `call` ends when the
  // disk does, and everything is well.
  template <typename Answer>
  void Expect(const std::function<void(Answered<Answer>)>& call) {
    AskClient client;
    AskRequest request;
    request.session_id = "talk";
    request.text = "?";
    request.max_new_tokens = 2000;
    auto ask = StartAsk(client, request);
    client.WaitForMessages(3);
    disk_.Shut();
    Awaited<Answer> awaited;
    std::atomic<bool> answered{false};
    call([&, finish = awaited.Finish()](const absl::StatusOr<Answer>& answer) {
      answered = true;
      finish(answer);
    });
    disk_.WaitUntilSomebodyCame();
    client.WaitForMessages(client.messages().size() + kMore);
    EXPECT_FALSE(answered) << "it is not on disk yet";
    EXPECT_FALSE(client.ended()) << "the answer is too short to see anything";
    Awaited<std::vector<SessionView>> listed;
    StartList(context(), caller_, listed.Finish());
    EXPECT_TRUE(listed.Wait().ok());
    EXPECT_EQ(Get("nobody").status().code(), absl::StatusCode::kNotFound);
    EXPECT_TRUE(Create("another").ok());
    disk_.Open();
    const absl::Status status = awaited.Wait().status();
    EXPECT_TRUE(status.ok()) << status;
    ask->Cancel();
    client.Wait().IgnoreError();
  }
  GatedDisk disk_;
};

TEST_F(SlowDisk, StopsNoAnswerDuringASave) {
  Expect<SaveDone>([this](auto finish) { StartSave(context(), caller_, {"plain"}, finish); });
  EXPECT_EQ(Get("plain")->durable_tokens, Get("plain")->tokens);
}

TEST_F(SlowDisk, StopsNoAnswerDuringARewind) {
  Expect<SessionView>([this](auto finish) { StartRewind(context(), caller_, {"doc", 10}, finish); });
  EXPECT_EQ(Get("doc")->durable_tokens, 10);
}

TEST_F(SlowDisk, StopsNoAnswerDuringAClose) {
  Expect<CloseAnswer>([this](auto finish) { StartClose(context(), caller_, {"doc", false}, finish); });
  EXPECT_EQ(Get("doc")->residence, Residence::kSaved);
}

TEST_F(SlowDisk, StopsNoAnswerDuringADeletion) {
  Expect<CloseAnswer>([this](auto finish) { StartClose(context(), caller_, {"doc", true}, finish); });
  EXPECT_EQ(Get("doc").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Create("doc").ok()) << "its name is free again";
}

TEST_F(SlowDisk, StopsNoAnswerDuringARestore) {
  ASSERT_TRUE(Close("doc").ok());
  Expect<SaveDone>([this](auto finish) { StartRestore(context(), caller_, {"doc", "", 0, false}, finish); });
  EXPECT_EQ(Get("doc")->residence, Residence::kOpen);
}

TEST_F(SlowDisk, StopsNoAnswerDuringAReread) {
  ASSERT_TRUE(Close("doc").ok());
  Expect<SaveDone>([this](auto finish) {
    RestoreRequest request;
    request.session_id = "doc";
    request.reread = true;
    StartRestore(context(), caller_, request, finish);
  });
  EXPECT_EQ(Get("doc")->residence, Residence::kOpen);
}

TEST_F(SlowDisk, StopsNoAnswerDuringACheckpoint) {
  Expect<AppendUpdate>([this](auto finish) {
    // Its text is on disk before it is read.
    std::thread([this, finish] {
      const absl::Status appended = Append("doc", Text(100, 4), "more");
      if (!appended.ok()) return finish(appended);
      finish(AppendUpdate());
    }).detach();
  });
}

TEST_F(SlowDisk, ASessionThatIsClosedDuringItsSaveIsClosedWhenTheDiskLetsIt) {
  disk_.Shut();
  Awaited<SaveDone> saved;
  StartSave(context(), caller_, {"plain"}, saved.Finish());
  disk_.WaitUntilSomebodyCame();
  Awaited<CloseAnswer> closed;
  StartClose(context(), caller_, {"plain", true}, closed.Finish());
  EXPECT_EQ(saved.Wait().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Create("plain").status().code(), absl::StatusCode::kAlreadyExists) << "it is still being closed";
  disk_.Open();
  EXPECT_TRUE(closed.Wait().ok());
  EXPECT_TRUE(Create("plain").ok());
  Awaited<SaveDone> again;
  StartSave(context(), caller_, {"plain"}, again.Finish());
  EXPECT_TRUE(again.Wait().ok());
}

}  // namespace
}  // namespace duo
