#include "launcher/serve/calls/activity.h"

#include <gtest/gtest.h>

#include <thread>

namespace duo {
namespace {

TEST(Activity, HasTheCallsOfNow) {
  Activity activity;
  const uint64_t first = activity.Begin("Append", "book", "alice");
  const uint64_t second = activity.Begin("Ask", "", "bob");
  ASSERT_EQ(activity.calls().size(), 2u);
  EXPECT_EQ(activity.calls()[0].session, "book");
  EXPECT_EQ(activity.calls()[0].number, first);
  EXPECT_GE(activity.calls()[0].age_seconds, activity.calls()[1].age_seconds);
  activity.End(first);
  activity.End(first);  // ends once
  activity.End(0);      // of a call that did not begin
  ASSERT_EQ(activity.calls().size(), 1u);
  EXPECT_EQ(activity.calls()[0].number, second);
}

TEST(Activity, KeepsTheLastRefusalsAndAnswers) {
  Activity activity;
  for (int i = 0; i < 1000; ++i) {
    activity.Refused({0, "Ask", "NOT_FOUND", std::to_string(i), "alice"});
    activity.Answered({static_cast<double>(i), 0.1});
    activity.Looked({static_cast<float>(i), 0.5f});
  }
  const std::vector<RefusedCall> refused = activity.refused();
  EXPECT_EQ(refused.size(), 50u);
  EXPECT_EQ(refused[0].message, "999");
  EXPECT_GT(refused[0].number, refused[1].number);
  const std::vector<AnswerTimes> answered = activity.answered();
  EXPECT_EQ(answered.size(), 120u);
  EXPECT_EQ(answered.back().first_token, 999);
  EXPECT_EQ(activity.looked().size(), 120u);
  EXPECT_EQ(activity.looked().back()[0], 999);
}

TEST(Activity, AnyThreadMayUseIt) {
  Activity activity;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&activity] {
      for (int j = 0; j < 200; ++j) {
        const uint64_t call = activity.Begin("Ask", "book", "alice");
        activity.Refused({0, "Ask", "NOT_FOUND", "", "alice"});
        activity.Answered({1, 1});
        activity.calls();
        activity.refused();
        activity.answered();
        activity.End(call);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(activity.calls().empty());
}

}  // namespace
}  // namespace duo
