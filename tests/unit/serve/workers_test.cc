// Workers, budgets and the log of refusals: what keeps one caller from taking all.
#include "launcher/serve/calls/workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "launcher/serve/calls/refusal_log.h"
#include "launcher/serve/sessions/upload_budget.h"

namespace duo {
namespace {

// A door that jobs wait at.
class Door {
 public:
  void Pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void WaitFor(int waiting) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ >= waiting; });
  }
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  bool open_ = false;
};

TEST(Workers, AShortTextDoesNotWaitForLongOnes) {
  Door books, done;
  std::atomic<int> read{0};
  Workers workers(3, 100);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(workers.Post(Workers::kLongBytes, [&] {
      books.Pass();
      ++read;
    }));
  }
  books.WaitFor(2);
  done.Open();
  ASSERT_TRUE(workers.Post(10, [&] { done.Pass(); }));
  done.WaitFor(1);  // would never come if long texts had every thread
  EXPECT_EQ(read, 0);
  books.Open();
}

TEST(Workers, WhatWaitsIsRunBeforeTheEndAndNoMoreThanTheLimitWaits) {
  std::atomic<int> ran{0};
  int posted = 0;
  {
    Door door;
    Workers workers(2, 4);
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(workers.Post(1, [&] { door.Pass(); }));
    door.WaitFor(2);
    for (int i = 0; i < 10; ++i) posted += workers.Post(i % 2 == 0 ? 1 : Workers::kLongBytes, [&] { ++ran; });
    EXPECT_EQ(posted, 4);
    door.Open();
  }
  EXPECT_EQ(ran, posted);
}

TEST(RefusalLog, FewLinesASecondAndACountOfTheOthers) {
  RefusalLog log;
  RefusalLog::Time now = RefusalLog::Time() + std::chrono::hours(1);
  int lines = 0;
  for (int i = 0; i < 1000; ++i) lines += log.Line(now).has_value();
  EXPECT_EQ(lines, RefusalLog::kLines);
  now += std::chrono::seconds(1);
  EXPECT_EQ(log.Line(now), std::optional<int64_t>(1000 - RefusalLog::kLines));
  EXPECT_EQ(log.Line(now), std::optional<int64_t>(0));
}

TEST(UploadBudget, TakesNoMoreThanThereIs) {
  UploadBudget budget(100);
  EXPECT_TRUE(budget.Take(60));
  EXPECT_FALSE(budget.Take(41));
  EXPECT_TRUE(budget.Take(40));
  budget.Give(60);
  EXPECT_EQ(budget.used(), 40);
}

}  // namespace
}  // namespace duo
