// What the scheduler promises about the length of a prefill step.
#include "runtime/scheduler.h"

#include "gtest/gtest.h"

namespace duo {
namespace {

constexpr int kChunk = 4096;

struct Plans {
  Scheduler scheduler;
  Plans() : scheduler(Options(), Sizes(), true, false) {}
  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.chunk = kChunk;
    options.max_wait = 1e-9;  // no chunk is that quick
    options.max_batch = 4;
    options.sessions = 2;
    options.questions = 2;
    options.flop_per_token = 1;
    options.flop_per_token_pair = 1;
    options.flop_rate = 1;
    return options;
  }
  static KvSizes Sizes() {
    KvSizes sizes;
    sizes.pages = 1000;
    sizes.rings = 5;
    sizes.tables = 4;
    sizes.table_pages = 200;
    return sizes;
  }
  SessionId Reading(int64_t tokens) {
    const SessionId session = *scheduler.CreateSession(tokens + 100);
    EXPECT_TRUE(scheduler.Append(session, std::vector<int32_t>(tokens, 1), {}).ok());
    return session;
  }
  size_t RowsOfNextStep() {
    StepPlan plan;
    EXPECT_TRUE(scheduler.Next(&plan));
    return plan.tokens.size();
  }
};

TEST(Scheduler, ReadsInWholeChunksWhenNobodyWaits) {
  Plans plans;
  plans.Reading(3 * kChunk);
  EXPECT_EQ(plans.RowsOfNextStep(), kChunk);
}

TEST(Scheduler, AQuestionBehindTheAppendOnItsOwnSessionDoesNotShortenChunks) {
  Plans plans;
  const SessionId session = plans.Reading(3 * kChunk);
  ASSERT_TRUE(plans.scheduler.Ask(session, {1, 2}, GenerateParams(), {}).ok());
  EXPECT_EQ(plans.RowsOfNextStep(), kChunk);
}

TEST(Scheduler, AnotherSessionsWorkShortensChunks) {
  Plans plans;
  plans.Reading(10000);
  plans.Reading(10000);
  EXPECT_LT(plans.RowsOfNextStep(), kChunk);
}

}  // namespace
}  // namespace duo
