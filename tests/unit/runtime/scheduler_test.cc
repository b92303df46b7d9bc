// What the scheduler promises about the length of a prefill step, and so about how long a question waits.
#include "runtime/scheduler/scheduler.h"

#include <algorithm>

#include "gtest/gtest.h"
#include "kernels/base/splitmix64.h"
#include "runtime/model/sampler.h"
#include "tests/unit/runtime/scheduler_step.h"

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

TEST(Scheduler, ASessionThatMayBeAskedShortensChunksBeforeItIs) {
  Plans plans;
  plans.Reading(3 * kChunk);
  const SessionId other = *plans.scheduler.CreateSession(100);
  EXPECT_EQ(plans.RowsOfNextStep(), ChunkTime::kFewestRows);
  plans.scheduler.Complete({}, 1);
  ASSERT_TRUE(plans.scheduler.CloseSession(other).ok());
  EXPECT_EQ(plans.RowsOfNextStep(), kChunk);
}

TEST(Scheduler, AnAnswerEndsWithAnErrorWhereNoTokenCanBeDrawn) {
  Plans plans;
  const SessionId session = *plans.scheduler.CreateSession(100);
  absl::Status status;
  std::vector<int32_t> tokens;
  RequestEvents events;
  events.on_token = [&](int32_t token) {
    tokens.push_back(token);
    return true;
  };
  events.on_done = [&](const RequestResult& result) { status = result.status; };
  ASSERT_TRUE(plans.scheduler.Ask(session, {1, 2, 3}, GenerateParams(), events).ok());
  for (const int32_t drawn : {7, kNoToken}) {
    plans.RowsOfNextStep();
    StepResult result;
    result.tokens = {drawn};
    plans.scheduler.Complete(result, 1);
  }
  EXPECT_EQ(tokens, std::vector<int32_t>{7});
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("NaN"), absl::string_view::npos) << status;
  EXPECT_EQ(plans.scheduler.stats().running, 0);
}

// A scheduler on a machine whose clock is counted, not read: a chunk takes what `machine` says, a step of rows kRows.
// Document sessions are read while questions on another session come at any moment, each at the worst one: just as a
// step begins, so that it waits for all of that step.
class Machine {
 public:
  static constexpr double kMaxWait = 0.5, kRowsSeconds = 0.01;

  // The scheduler's guess of the rate is `guess` times the machine's.
  explicit Machine(double guess, double max_gap = 0.05) : scheduler_(Options(guess, max_gap), Sizes(), true, false) {}

  SessionId Read(int64_t tokens) {
    const SessionId session = *scheduler_.CreateSession(tokens);
    EXPECT_TRUE(scheduler_.Append(session, std::vector<int32_t>(tokens, 1), {}).ok());
    return session;
  }
  bool Step() {
    return RunStep(scheduler_, [this](const StepPlan& plan) {
      begun_ = now_;
      // What rides with a chunk costs nothing here: scheduler_gap_test.cc looks at that. Behind much history a chunk
      // may be as few rows as rows are.
      const SeqSpan& first = plan.spans[0];
      const bool chunk = plan.kind == StepKind::kPrefill || first.history > 2000;
      const double seconds = chunk ? time_.Predict(first.num_rows, first.history) : kRowsSeconds;
      if (plan.kind == StepKind::kPrefill) longest_chunk = std::max(longest_chunk, seconds);
      now_ += seconds;
      return seconds;
    });
  }
  // A question that came when the last step began; its first token's time goes to first_tokens.
  void Ask(SessionId session, int tokens) {
    GenerateParams params;
    params.max_new_tokens = 3;
    RequestEvents events;
    events.on_token = [this, asked = begun_, first = true](int32_t) mutable {
      if (first) first_tokens.push_back(now_ - asked);
      first = false;
      return true;
    };
    EXPECT_TRUE(scheduler_.Ask(session, std::vector<int32_t>(tokens, 2), params, std::move(events)).ok());
  }

  const Scheduler& scheduler() const { return scheduler_; }

  double longest_chunk = 0;
  std::vector<double> first_tokens;

 private:
  static SchedulerOptions Options(double guess, double max_gap) {
    SchedulerOptions options;
    options.chunk = 16384;
    options.max_wait = kMaxWait;
    options.max_gap = max_gap;
    options.sessions = 8;
    options.flop_per_token = 1.4e10;
    options.flop_per_token_pair = 2.6e5;
    options.flop_rate = 5e14 * guess;
    return options;
  }
  static KvSizes Sizes() {
    KvSizes sizes;
    sizes.pages = 40000;
    sizes.rings = sizes.tables = 32;
    sizes.table_pages = 10000;
    return sizes;
  }
  // Attention is 1.5 times as slow as the scheduler's count has it.
  ChunkTime time_{{1.4e10, 1.5 * 2.6e5, 5e14}};
  Scheduler scheduler_;
  double now_ = 0, begun_ = 0;
};

TEST(Scheduler, AShortQuestionWaitsForMaxWaitAtMostHoweverMuchIsBeingRead) {
  for (const double guess : {0.2, 1.0, 5.0}) {
    for (const int documents : {1, 4}) {
      SCOPED_TRACE(testing::Message() << "guess " << guess << ", documents " << documents);
      Machine machine(guess);
      const SessionId asked = machine.Read(1000);
      while (machine.Step()) {
      }
      for (int i = 0; i < documents; ++i) machine.Read(600'000);
      for (int i = 0; i < 12; ++i) machine.Step();  // chunks that teach it the machine's rate
      machine.longest_chunk = 0;
      uint64_t random = 1;
      size_t questions = 0;
      while (machine.Step()) {
        if (SplitMix64(random++) % 4 != 0) continue;
        machine.Ask(asked, 20);
        ++questions;
      }
      EXPECT_GE(questions, 150);
      ASSERT_EQ(machine.first_tokens.size(), questions);
      // The prediction follows the machine with half of each error: where it counts attention as 1.5 times too quick,
      // the next chunk's history is at most 16,384 tokens longer than the last's, which moves the time by less.
      const double longest = 1.05 * Machine::kMaxWait;
      EXPECT_LE(machine.longest_chunk, longest);
      EXPECT_LE(*std::max_element(machine.first_tokens.begin(), machine.first_tokens.end()),
                longest + 2 * Machine::kRowsSeconds);
    }
  }
}

TEST(Scheduler, ALongQuestionWaitsForOneChunkNotForEveryDocument) {
  Machine machine(1);
  const SessionId asked = machine.Read(1000);
  while (machine.Step()) {
  }
  for (int i = 0; i < 6; ++i) machine.Read(300'000);
  for (int i = 0; i < 12; ++i) machine.Step();
  for (int i = 0; i < 40; ++i) {
    machine.Step();
    machine.Ask(asked, 500);
    for (int j = 0; j < 9; ++j) machine.Step();
  }
  ASSERT_EQ(machine.first_tokens.size(), 40);
  // The chunk that runs, at most one that the turn gives to a document, its own, and rows between them.
  EXPECT_LE(*std::max_element(machine.first_tokens.begin(), machine.first_tokens.end()),
            3 * 1.05 * Machine::kMaxWait + 4 * Machine::kRowsSeconds);
}

TEST(Scheduler, QuestionsDoNotStopTheReading) {
  Machine machine(1, Machine::kMaxWait);
  const SessionId asked = machine.Read(1000);
  while (machine.Step()) {
  }
  const SessionId document = machine.Read(50'000);
  int steps = 0;
  for (; machine.scheduler().Get(document)->tokens < 50'000 && steps < 1000; ++steps) {
    machine.Ask(asked, 20);
    machine.Ask(asked, 500);
    ASSERT_TRUE(machine.Step());
  }
  EXPECT_LT(steps, 100);
}

}  // namespace
}  // namespace duo
