#include "parallel/wait_watch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace duo {
namespace {

using std::chrono::milliseconds;

// A library of which each look gets the next of `answers`, and the last one for ever.
struct FakeNccl {
  enum Code { kSuccess, kRemoteError, kInvalidArgument, kInProgress };
  struct Answer {
    Code call = kSuccess, told = kSuccess;
  };
  std::vector<Answer> answers;
  size_t looks = 0;
  Code AsyncError(Code* told) {
    const Answer& answer = answers[std::min(looks++, answers.size() - 1)];
    *told = answer.told;
    return answer.call;
  }
  static std::string Text(Code code) {
    return std::array<const char*, 4>{"no error", "remote process exited", "invalid argument", "in progress"}[code];
  }
};

std::string TroubleOf(FakeNccl::Answer answer) {
  FakeNccl nccl = {.answers = {answer}};
  return AsyncTrouble(nccl);
}

TEST(AsyncTrouble, IsWhatNcclToldOrWhyItToldNothing) {
  EXPECT_EQ(TroubleOf({FakeNccl::kSuccess, FakeNccl::kSuccess}), "");
  EXPECT_EQ(TroubleOf({FakeNccl::kSuccess, FakeNccl::kInProgress}), "") << "of a communicator that does not block";
  EXPECT_EQ(TroubleOf({FakeNccl::kSuccess, FakeNccl::kRemoteError}), "remote process exited");
  EXPECT_EQ(TroubleOf({FakeNccl::kInvalidArgument, FakeNccl::kSuccess}), "invalid argument");
}

// What waits for a peer, and would for ever: the sentence that it ends with.
class Waits : public testing::Test {
 protected:
  std::unique_ptr<WaitWatch> Watch(
      FakeNccl nccl, std::function<int()> silent = [] { return -1; }, milliseconds every = milliseconds(1)) {
    nccl_ = std::move(nccl);
    const WaitWatch::Asked asked = {[this] {
                                      ++looks_;
                                      return AsyncTrouble(nccl_);
                                    },
                                    std::move(silent)};
    return std::make_unique<WaitWatch>(
        3, asked, [this](const std::string& wrong) { ended_.set_value(wrong); }, every);
  }
  void UntilLooks(int count) const {
    while (looks_ < count) std::this_thread::sleep_for(milliseconds(1));
  }
  std::string Ended() {
    std::future<std::string> ended = ended_.get_future();
    return ended.wait_for(std::chrono::seconds(60)) == std::future_status::ready ? ended.get() : "it waits for ever";
  }

  FakeNccl nccl_;
  std::atomic<int> looks_ = 0;
  std::promise<std::string> ended_;  // a second end would throw
};

TEST_F(Waits, EndWithTheFirstErrorThatNcclTells) {
  const auto watch = Watch({.answers = {{}, {}, {FakeNccl::kSuccess, FakeNccl::kRemoteError}}});
  EXPECT_EQ(Ended(), "rank 3: NCCL lost a peer or the way to it: remote process exited; NCCL_DEBUG=WARN tells more");
  EXPECT_EQ(looks_, 3);
}

TEST_F(Waits, EndWhereNcclCannotBeAsked) {
  const auto watch = Watch({.answers = {{FakeNccl::kInvalidArgument, FakeNccl::kSuccess}}});
  EXPECT_EQ(Ended(), "rank 3: NCCL lost a peer or the way to it: invalid argument; NCCL_DEBUG=WARN tells more");
}

TEST_F(Waits, EndWhenAPeerIsSilentInMemory) {
  const auto watch = Watch({.answers = {{}}}, [this] { return looks_ < 5 ? -1 : 0; });
  EXPECT_EQ(Ended(), "rank 3: expected a message in GPU memory from rank 0, found none for 300 s");
  EXPECT_EQ(looks_, 5);
}

TEST_F(Waits, GoOnWhileNothingIsWrong) {
  auto watch = Watch({.answers = {{}, {FakeNccl::kSuccess, FakeNccl::kInProgress}, {}}});
  UntilLooks(20);
  watch.reset();
  const int looks = looks_;
  std::future<std::string> ended = ended_.get_future();
  EXPECT_EQ(ended.wait_for(milliseconds(20)), std::future_status::timeout);
  EXPECT_EQ(looks_, looks) << "somebody looks after the end";
}

// Programs end at once, though looks are far apart.
TEST_F(Waits, AreLeftWithoutAnotherLook) {
  auto watch = Watch(
      {.answers = {{}}}, [] { return -1; }, std::chrono::hours(1));
  watch.reset();
  EXPECT_EQ(looks_, 0);
}

TEST(PeerSilence, LastsFromTheFirstLookAtTheClock) {
  constexpr uint64_t kSecond = 1'000'000'000, kBegun = uint64_t{1'800'000'000} * kSecond;  // a time of day
  PeerSilence silence;
  EXPECT_FALSE(silence.TooLong(kBegun));
  EXPECT_FALSE(silence.TooLong(kBegun + 299 * kSecond));
  EXPECT_FALSE(silence.TooLong(kBegun + 300 * kSecond));
  EXPECT_TRUE(silence.TooLong(kBegun + 300 * kSecond + 1));
  EXPECT_TRUE(silence.TooLong(kBegun + 3000 * kSecond)) << "it stays said";
  PeerSilence next;  // of the next message
  EXPECT_FALSE(next.TooLong(kBegun + 3000 * kSecond));
}

}  // namespace
}  // namespace duo
