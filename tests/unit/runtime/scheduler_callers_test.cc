// Callers share places and reading time, however many requests each has.
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/scheduler/scheduler.h"
#include "tests/unit/runtime/scheduler_step.h"

namespace duo {
namespace {

class Callers : public testing::Test {
 protected:
  static constexpr int kQuestions = 4;

  Callers() : scheduler_(Options(), Sizes(), true, false), session_(*scheduler_.CreateSession(1000)) {}

  // The first tokens' callers go to `first`, in their order.
  void Ask(const std::string& caller, int32_t priority = 0, int64_t new_tokens = 20) {
    GenerateParams params;
    params.max_new_tokens = new_tokens;
    params.whose = {caller, priority};
    RequestEvents events;
    events.on_token = [this, caller, priority, begun = false](int32_t) mutable {
      if (!begun) first.emplace_back(caller, priority);
      begun = true;
      ++tokens[caller];
      return true;
    };
    ASSERT_TRUE(scheduler_.Ask(session_, {1}, params, std::move(events)).ok());
  }
  void Read(const std::string& caller, int64_t length) {
    RequestEvents events;
    events.on_done = [this, caller](const RequestResult&) { read.push_back(caller); };
    const SessionId session = *scheduler_.CreateSession(length);
    ASSERT_TRUE(scheduler_.Append(session, std::vector<int32_t>(length, 1), std::move(events), 0, {caller, 0}).ok());
  }
  bool Step() { return RunStep(scheduler_); }
  void Steps(int count) {
    for (int i = 0; i < count; ++i) ASSERT_TRUE(Step());
  }

  std::vector<std::pair<std::string, int32_t>> first;
  std::map<std::string, int64_t> tokens;
  std::vector<std::string> read;
  Scheduler scheduler_;
  SessionId session_;

 private:
  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.chunk = 128;
    options.sessions = 32;
    options.questions = kQuestions;
    options.flop_per_token = 1e6;
    return options;
  }
  static KvSizes Sizes() {
    KvSizes sizes;
    sizes.pages = 4000;
    sizes.tables = 40;
    sizes.rings = 41;
    sizes.table_pages = 100;
    return sizes;
  }
};

TEST_F(Callers, AHundredWaitingQuestionsOfOneDoNotHoldUpAnother) {
  for (int i = 0; i < 100; ++i) Ask("many");
  Steps(5);
  EXPECT_EQ(scheduler_.stats().running, kQuestions - 1) << "a place is left for whoever comes";
  Ask("one");
  Steps(1);
  EXPECT_EQ(first.back().first, "one");
  Steps(19);
  EXPECT_EQ(tokens["one"], 20);
}

TEST_F(Callers, WithoutNamesHaveAllPlaces) {
  for (int i = 0; i < 100; ++i) Ask("");
  Steps(5);
  EXPECT_EQ(scheduler_.stats().running, kQuestions);
}

TEST_F(Callers, WithManyQuestionsEachHaveAsManyPlaces) {
  for (int i = 0; i < 60; ++i) Ask("a");
  for (int i = 0; i < 60; ++i) Ask("b");
  Steps(400);
  EXPECT_NEAR(static_cast<double>(tokens["a"]), static_cast<double>(tokens["b"]), 80);
}

TEST_F(Callers, AmongItsOwnLowerPrioritiesComeFirstAndThenTheOlder) {
  for (int i = 0; i < kQuestions; ++i) Ask("", 0, 10);
  Steps(1);
  first.clear();
  for (const int32_t priority : {5, -5, 5, 0, -5, 5, 0, 5}) Ask("", priority, 3);
  Steps(13);
  ASSERT_EQ(first.size(), 8);
  // Four have places at once, and draw in the order in which they came.
  EXPECT_EQ(first[0].second + first[1].second + first[2].second + first[3].second, -10) << "both of -5 and both of 0";
}

TEST_F(Callers, ReadInTurnHoweverManyTextsOneHas) {
  for (int i = 0; i < 10; ++i) Read("many", 2000);
  Steps(20);
  Read("one", 2000);
  while (read.empty() || read.back() != "one") ASSERT_TRUE(Step());
  EXPECT_LE(read.size(), 6) << "half of the time is the one's: at most that many of the other were read before";
  const size_t before = read.size();
  while (Step()) {
  }
  EXPECT_EQ(read.size(), 11);
  EXPECT_LT(before, 11);
}

}  // namespace
}  // namespace duo
