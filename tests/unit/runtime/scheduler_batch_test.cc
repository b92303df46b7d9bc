// Who has a place in a step when there are more requests than places.
#include <algorithm>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/scheduler/scheduler.h"
#include "tests/unit/runtime/scheduler_step.h"

namespace duo {
namespace {

class SmallBatch : public testing::Test {
 protected:
  static constexpr int kBatch = 4, kQuestions = 10;

  SmallBatch() : scheduler_(Options(), Sizes(), true, false), session_(*scheduler_.CreateSession(1000)) {}

  // Its tokens are counted in `drawn`.
  RequestId Ask(int64_t new_tokens) {
    GenerateParams params;
    params.max_new_tokens = new_tokens;
    RequestEvents events;
    const size_t i = drawn.size();
    drawn.push_back(0);
    events.on_token = [this, i](int32_t) {
      ++drawn[i];
      return true;
    };
    events.on_done = [this, i](const RequestResult& result) {
      if (result.status.ok()) done.push_back(i);
    };
    return *scheduler_.Ask(session_, {1}, params, std::move(events));
  }
  bool Step() {
    return RunStep(scheduler_, [](const StepPlan& plan) {
      EXPECT_LE(plan.spans.size(), kBatch);
      return 0.01;
    });
  }

  std::vector<int> drawn;
  std::vector<size_t> done;  // in the order of their ends
  Scheduler scheduler_;
  SessionId session_;

 private:
  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.max_batch = kBatch;
    options.questions = kQuestions;
    options.max_pending = 2000;
    return options;
  }
  static KvSizes Sizes() {
    KvSizes sizes;
    sizes.pages = 100;
    sizes.tables = kQuestions + 1;
    sizes.rings = kQuestions + 2;
    sizes.table_pages = 10;
    return sizes;
  }
};

TEST_F(SmallBatch, IsSharedInTurnByTheAnswersThatRun) {
  for (int i = 0; i < kQuestions; ++i) Ask(50);
  while (*std::min_element(drawn.begin(), drawn.end()) == 0) ASSERT_TRUE(Step());
  for (int step = 0; step < 60; ++step) {
    ASSERT_TRUE(Step());
    // Their first tokens came in other steps: two apart at most, and it stays so.
    const auto [least, most] = std::minmax_element(drawn.begin(), drawn.end());
    ASSERT_LE(*most - *least, 4) << "after step " << step;
  }
}

TEST_F(SmallBatch, AThousandQuestionsOnOneSessionEndInTheirOrderAndOnlyThoseThatRunHoldRings) {
  for (int i = 0; i < 1024; ++i) Ask(2);
  int least_free = scheduler_.stats().rings_free;
  while (Step()) {
    least_free = std::min(least_free, scheduler_.stats().rings_free);
    EXPECT_LE(scheduler_.stats().running, kQuestions);
  }
  EXPECT_EQ(least_free, 0) << "of the session and ten questions";
  EXPECT_EQ(done.size(), 1024);
  // Ten at a time: none ends before one that came ten places before it.
  for (size_t i = 0; i < done.size(); ++i) EXPECT_LE(std::max(done[i], i) - std::min(done[i], i), kQuestions) << i;
  EXPECT_EQ(scheduler_.stats().rings_free, kQuestions);
}

TEST_F(SmallBatch, AQuestionThatIsCancelledLetsTheNextOneStart) {
  const RequestId first = Ask(500);
  for (int i = 1; i < kQuestions; ++i) Ask(500);
  ASSERT_TRUE(Step());
  Ask(2);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Step());
  EXPECT_EQ(scheduler_.stats().waiting, 1);
  ASSERT_TRUE(scheduler_.Cancel(first).ok());
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Step());
  EXPECT_EQ(done, std::vector<size_t>{kQuestions});
}

}  // namespace
}  // namespace duo
