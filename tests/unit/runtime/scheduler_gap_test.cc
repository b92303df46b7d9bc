// Answers and reads at once: how long a token waits, what a read gets, and who reads first. On a machine whose clock is
// counted, not read: a step takes what its rows take by a rule.
#include <algorithm>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/scheduler/scheduler.h"
#include "tests/unit/runtime/scheduler_step.h"

namespace duo {
namespace {

class GapMachine : public testing::Test {
 protected:
  static constexpr double kGap = 0.05;

  // A step reads the weights, or computes a chunk, whichever takes longer; rows read their own history.
  double SecondsOf(const StepPlan& plan) const {
    constexpr double kWeights = 0.005, kRow = 2.5e-5, kPair = 6e-10, kRead = 2e-8;
    double dense = kRow * static_cast<double>(plan.tokens.size()), attention = 0;
    for (const SeqSpan& span : plan.spans) {
      const double pairs = static_cast<double>(span.num_rows) * (span.history + 0.5 * span.num_rows);
      attention += span.num_rows > 1 ? kPair * pairs : row_cost * kRead * span.history;
    }
    return std::max(kWeights, dense) + attention;
  }

  SessionId Open(int64_t tokens) { return *scheduler_.CreateSession(tokens); }
  // When it is read goes to read_at.
  void Read(SessionId session, int64_t tokens, double* read_at = nullptr) {
    RequestEvents events;
    events.on_done = [this, read_at](const RequestResult&) {
      if (read_at != nullptr) *read_at = now;
    };
    ASSERT_TRUE(scheduler_.Append(session, std::vector<int32_t>(tokens, 1), std::move(events)).ok());
  }
  // Answers that last as long as the test does; the gaps between their tokens go to `gaps`.
  void Answer(SessionId session) {
    GenerateParams params;
    params.max_new_tokens = 1'000'000;
    RequestEvents events;
    events.on_token = [this, last = -1.0](int32_t) mutable {
      if (last >= 0) gaps.push_back(now - last);
      last = now;
      return !enough;
    };
    ASSERT_TRUE(scheduler_.Ask(session, {1}, params, std::move(events)).ok());
  }
  bool Step() {
    return RunStep(scheduler_, [this](const StepPlan& plan) {
      const double seconds = SecondsOf(plan);
      now += seconds;  // before what the step brings is told
      return seconds;
    });
  }
  void StepUntil(const double& read_at) {
    for (int i = 0; read_at == 0 && i < 200'000; ++i) ASSERT_TRUE(Step());
    ASSERT_GT(read_at, 0);
  }
  // Eight sessions of 8,000 tokens with an answer each.
  void EightAnswers() {
    for (int i = 0; i < 8; ++i) {
      answered_.push_back(Open(2'000'000));
      double read = 0;
      Read(answered_.back(), 8000, &read);
      StepUntil(read);
      Answer(answered_.back());
    }
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(Step());
    gaps.clear();
  }
  double Alone(int64_t tokens) {
    const double begun = now;
    double read = 0;
    const SessionId session = Open(tokens);
    Read(session, tokens, &read);
    StepUntil(read);
    EXPECT_TRUE(scheduler_.CloseSession(session).ok());
    return read - begun;
  }

  double now = 0, row_cost = 1;
  bool enough = false;
  std::vector<double> gaps;
  Scheduler scheduler_{Options(), Sizes(), true, false};

 private:
  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.chunk = 16384;
    options.max_batch = 32;
    options.max_gap = kGap;
    options.sessions = 32;
    options.flop_per_token = 2.5e-5;
    options.flop_per_token_pair = 6e-10;
    options.flop_rate = 1;
    options.rider_factor = 16;
    return options;
  }
  static KvSizes Sizes() {
    KvSizes sizes;
    sizes.pages = 200'000;
    sizes.rings = 64;
    sizes.tables = 63;
    sizes.table_pages = 20'000;
    return sizes;
  }
  std::vector<SessionId> answered_;
};

double At(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

TEST_F(GapMachine, AnswersFlowWhileADocumentIsReadAndTheReadKeepsItsPace) {
  const double alone = Alone(120'000);
  EightAnswers();
  double read = 0;
  const double begun = now;
  Read(Open(120'000), 120'000, &read);
  StepUntil(read);
  EXPECT_LE(At(gaps, 0.5), 0.6 * kGap);
  EXPECT_LE(At(gaps, 0.99), kGap);
  EXPECT_GE(alone / (read - begun), 0.7);
}

TEST_F(GapMachine, NoGapIsLongerBehindAMillionTokens) {
  EightAnswers();
  double read = 0;
  Read(Open(900'000), 900'000, &read);
  StepUntil(read);
  EXPECT_LE(At(gaps, 0.5), 0.6 * kGap);
  EXPECT_LE(At(gaps, 0.99), kGap);
}

// Their prompts fill a step's rows: the chunk is no longer for that.
TEST_F(GapMachine, QuestionsThatComeTogetherLengthenNoGapEither) {
  EightAnswers();
  double read = 0;
  Read(Open(900'000), 900'000, &read);
  while (gaps.size() < 60'000) ASSERT_TRUE(Step());
  gaps.clear();
  const SessionId asked = Open(1000);
  for (int i = 0; i < 30; ++i) {
    GenerateParams params;
    params.max_new_tokens = 1;
    for (int j = 0; j < 8; ++j) ASSERT_TRUE(scheduler_.Ask(asked, std::vector<int32_t>(16, 1), params, {}).ok());
    for (int j = 0; j < 5; ++j) ASSERT_TRUE(Step());
  }
  EXPECT_LE(*std::max_element(gaps.begin(), gaps.end()), kGap);
}

// Answers that take 0.2 s a step by themselves.
TEST_F(GapMachine, AReadKeepsAFifthOfTheTimeWhereAnswersAloneTakeLonger) {
  row_cost = 150;
  EightAnswers();
  const double rows = 8 * row_cost * 2e-8 * 8000 + 0.005;
  ASSERT_GT(rows, 3 * kGap);
  double read = 0;
  Read(Open(120'000), 120'000, &read);
  StepUntil(read);
  EXPECT_LE(At(gaps, 0.9), 1.5 * rows) << "and no more than that";
  EXPECT_GE(1 - rows / At(gaps, 0.5), 0.12) << "of a step the read has about a fifth";
}

TEST_F(GapMachine, AChunkIsWholeAgainWhenTheAnswersAreWritten) {
  EightAnswers();
  enough = true;
  double read = 0;
  Read(Open(120'000), 120'000, &read);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Step());
  StepPlan plan;
  ASSERT_TRUE(scheduler_.Next(&plan));
  EXPECT_EQ(plan.spans.size(), 1);
  EXPECT_GE(plan.tokens.size(), 4096);
}

TEST_F(GapMachine, AShortDocumentIsNotHeldUpByALongOne) {
  const double alone = Alone(10'000);
  double long_read = 0, short_read = 0;
  Read(Open(1'000'000), 1'000'000, &long_read);
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(Step());
  const double begun = now;
  Read(Open(10'000), 10'000, &short_read);
  StepUntil(short_read);
  EXPECT_LE(short_read - begun, 2 * alone + 0.5) << "its own time, a chunk that ran, and the other's least share";
}

TEST_F(GapMachine, ALongDocumentIsReadHoweverManyShortOnesCome) {
  double long_read = 0;
  Read(Open(200'000), 200'000, &long_read);
  const double begun = now;
  int shorts = 0;
  while (long_read == 0) {
    ASSERT_LT(now - begun, 300) << "it starves";
    double read = 0;
    const SessionId session = Open(10'000);
    Read(session, 10'000, &read);
    while (read == 0 && long_read == 0) ASSERT_TRUE(Step());
    if (read > 0) {
      ASSERT_TRUE(scheduler_.CloseSession(session).ok());
      ++shorts;
    }
  }
  EXPECT_GT(shorts, 30) << "which had most of the time";
}

}  // namespace
}  // namespace duo
