// Several answers to one question: how often the question is read, who waits for whom, and that nobody waits for ever.
#include <gtest/gtest.h>

#include <map>

#include "kernels/base/splitmix64.h"
#include "runtime/scheduler/scheduler.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

GenerateParams Most(int64_t new_tokens) {
  GenerateParams params;
  params.max_new_tokens = new_tokens;
  return params;
}

class SchedulerAnswers : public testing::Test {
 protected:
  void Make(int questions, int64_t pages = 100) {
    SchedulerOptions options;
    options.chunk = 64;
    options.sessions = 3;
    options.questions = questions;
    options.refeed = 100;
    KvSizes sizes;
    sizes.pages = pages;
    sizes.rings = questions + 4;
    sizes.tables = questions + 3;
    sizes.table_pages = 40;
    scheduler_ = std::make_unique<Scheduler>(options, sizes, true, false);
  }
  SessionId Create(int64_t reserved = 0) { return *scheduler_->CreateSession(4000, reserved); }
  RequestEvents Events(int answer) {
    RequestEvents events;
    events.on_token = [this, answer](int32_t) {
      ++tokens_[answer];
      return true;
    };
    events.on_done = [this, answer](const RequestResult& result) { ended_[answer] = result.status; };
    return events;
  }
  std::vector<RequestId> Ask(SessionId session, int64_t tokens, int many, int64_t new_tokens = 5) {
    GenerateParams params;
    params.max_new_tokens = new_tokens;
    params.seed = 100;
    std::vector<RequestEvents> events;
    for (int i = 0; i < many; ++i) events.push_back(Events(i));
    const auto ids = scheduler_->AskMany(session, std::vector<int32_t>(tokens, 1), params, std::move(events));
    EXPECT_TRUE(ids.ok()) << ids.status();
    return ids.value_or(std::vector<RequestId>());
  }
  bool Step() {
    StepPlan plan;
    if (!scheduler_->Next(&plan)) return false;
    for (const SampleParams& sample : plan.samples) seeds_[sample.seed] += 1;
    StepResult result;
    result.tokens.assign(plan.sample_rows.size(), 7);
    scheduler_->Complete(result, 0.01);
    return true;
  }
  void Run() {
    int steps = 0;
    while (Step()) ASSERT_LT(++steps, 100000);
  }
  int64_t Read() const { return scheduler_->stats().prefill_tokens; }
  void ExpectAnswers(int many, int tokens = 5) {
    ASSERT_EQ(ended_.size(), static_cast<size_t>(many));
    for (const auto& [answer, status] : ended_) {
      EXPECT_TRUE(status.ok()) << answer << ": " << status;
      EXPECT_EQ(tokens_[answer], tokens) << answer;
    }
    EXPECT_EQ(scheduler_->stats().running + scheduler_->stats().waiting, 0);
  }

  std::unique_ptr<Scheduler> scheduler_;
  std::map<int, int> tokens_;
  std::map<int, absl::Status> ended_;
  std::map<uint64_t, int> seeds_;
};

TEST_F(SchedulerAnswers, TheQuestionIsReadOnceAndEachAnswerHasItsSeed) {
  Make(8);
  Ask(Create(), 1000, 5);
  Run();
  ExpectAnswers(5);
  EXPECT_EQ(Read(), 1000 + 4);  // the last token by each
  EXPECT_EQ(seeds_, (std::map<uint64_t, int>{{100, 5}, {101, 5}, {102, 5}, {103, 5}, {104, 5}}));
}

TEST_F(SchedulerAnswers, MoreAnswersThanMayRunAtOnceAreStillOfOneReading) {
  Make(3);
  Ask(Create(), 1000, 10);
  Run();
  ExpectAnswers(10);
  EXPECT_EQ(Read(), 1000 + 9);
}

TEST_F(SchedulerAnswers, WhereOneRunsAtATimeEachReads) {
  Make(1);
  Ask(Create(), 300, 3);
  Run();
  ExpectAnswers(3);
  EXPECT_EQ(Read(), 3 * 300);
}

TEST_F(SchedulerAnswers, AQuestionOfOneTokenHasThemToo) {
  Make(4);
  Ask(Create(), 1, 4);
  Run();
  ExpectAnswers(4);
}

TEST_F(SchedulerAnswers, TwoReadersThatTakeAllPlacesDoNotWaitForEachOtherForEver) {
  Make(2);
  const SessionId session = Create();
  Ask(session, 500, 3);
  std::vector<absl::Status> others(3, absl::UnknownError("not ended"));
  std::vector<RequestEvents> events(3);
  for (int i = 0; i < 3; ++i) {
    events[i].on_done = [&others, i](const RequestResult& result) { others[i] = result.status; };
  }
  ASSERT_TRUE(scheduler_->AskMany(session, std::vector<int32_t>(400, 1), GenerateParams(), std::move(events)).ok());
  Run();
  ExpectAnswers(3);
  for (const absl::Status& status : others) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(SchedulerAnswers, OthersPassThoseThatWaitForTheirReader) {
  Make(8);
  const SessionId session = Create();
  Ask(session, 3000, 3);
  Step();
  ended_.clear();
  ASSERT_TRUE(scheduler_->Ask(session, {1, 2}, Most(2), Events(9)).ok());
  while (ended_.count(9) == 0) ASSERT_TRUE(Step());
  EXPECT_EQ(ended_.size(), 1u);
  EXPECT_LT(Read(), 1500);
}

TEST_F(SchedulerAnswers, AnAppendBehindThemWaitsUntilTheyHaveTheirForks) {
  Make(1);
  const SessionId session = Create();
  Ask(session, 300, 2);
  bool read = false;
  RequestEvents events;
  events.on_done = [&](const RequestResult& result) {
    read = result.status.ok();
    EXPECT_EQ(ended_.count(0), 1u) << "the second answer had to read the session as it was";
  };
  ASSERT_TRUE(scheduler_->Append(session, std::vector<int32_t>(50, 3), std::move(events)).ok());
  Run();
  ExpectAnswers(2);
  EXPECT_TRUE(read);
}

TEST_F(SchedulerAnswers, OneThatIsCancelledTakesNoOtherWithIt) {
  for (int gone = 0; gone < 3; ++gone) {
    for (int after = 0; after < 8; ++after) {
      Make(2);
      tokens_.clear();
      ended_.clear();
      const std::vector<RequestId> ids = Ask(Create(), 200, 3);
      for (int i = 0; i < after; ++i) Step();
      const bool running = ended_.count(gone) == 0;
      if (running) {
        EXPECT_TRUE(scheduler_->Cancel(ids[gone]).ok());
      }
      Run();
      ASSERT_EQ(ended_.size(), 3u);
      for (const auto& [answer, status] : ended_) {
        EXPECT_EQ(status.ok(), answer != gone || !running) << gone << " after " << after << ": " << status;
      }
      EXPECT_EQ(scheduler_->stats().pages_available, 100);
    }
  }
}

TEST_F(SchedulerAnswers, ScoresOfTheQuestionComeOnceToEach) {
  for (const int questions : {1, 8}) {
    Make(questions);
    GenerateParams params;
    params.max_new_tokens = 2;
    params.rules.prompt_scores = 0;
    std::map<int, std::vector<int32_t>> scores;
    std::vector<RequestEvents> events;
    for (int i = 0; i < 3; ++i) {
      events.push_back(Events(i));
      events.back().on_prompt_score = [&scores, i](const TokenScore& score) {
        scores[i].push_back(score.chosen.token);
      };
    }
    std::vector<int32_t> tokens(150), expected;
    for (int i = 0; i < 150; ++i) tokens[i] = i;
    expected.assign(tokens.begin() + 1, tokens.end());
    ASSERT_TRUE(scheduler_->AskMany(Create(), tokens, params, std::move(events)).ok());
    StepPlan plan;
    while (scheduler_->Next(&plan)) {
      StepResult result;
      result.tokens.assign(plan.sample_rows.size(), 7);
      result.scores.resize(plan.sample_rows.size());
      for (const SampleRule& rule : plan.rules) {
        if (rule.target >= 0) result.scores[rule.sample].chosen.token = rule.target;
      }
      scheduler_->Complete(result, 0.01);
    }
    for (int i = 0; i < 3; ++i) EXPECT_EQ(scores[i], expected) << questions << " at once, answer " << i;
    ended_.clear();
  }
}

TEST_F(SchedulerAnswers, PagesThatOnlyAnswersShareComeBackSoWhatNeedsThemWaits) {
  Make(8, 10);
  const SessionId session = Create();
  Ask(session, 6 * kPageTokens, 2, 20);
  while (Read() < 6 * kPageTokens) ASSERT_TRUE(Step());
  absl::Status large = absl::UnknownError("not ended");
  RequestEvents events;
  events.on_done = [&](const RequestResult& result) { large = result.status; };
  const std::vector<int32_t> tokens(8 * kPageTokens, 1);
  ASSERT_TRUE(scheduler_->Ask(session, tokens, Most(5), std::move(events)).ok());
  Run();
  ExpectAnswers(2, 20);
  EXPECT_TRUE(large.ok()) << large;
}

TEST_F(SchedulerAnswers, AnAnswerThatIsPausedKeepsItsPlaceAndOthersGoOn) {
  Make(4);
  const SessionId session = Create();
  bool pause = false;
  RequestEvents events = Events(0);
  events.pause = [&] { return pause; };
  ASSERT_TRUE(scheduler_->Ask(session, {1, 2}, Most(5), std::move(events)).ok());
  Step();
  Step();
  EXPECT_EQ(tokens_[0], 2);
  pause = true;
  EXPECT_FALSE(Step());
  ASSERT_TRUE(scheduler_->Ask(session, {3}, Most(5), Events(1)).ok());
  Run();
  EXPECT_EQ(tokens_[1], 5);
  EXPECT_EQ(tokens_[0], 2);
  EXPECT_EQ(scheduler_->stats().running, 1);
  pause = false;
  Run();
  ExpectAnswers(2);
}

TEST_F(SchedulerAnswers, RandomCallsAllEnd) {
  for (int trial = 0; trial < Scaled(30); ++trial) {
    uint64_t state = SplitMix64(trial);
    const auto random = [&](int64_t below) {
      return static_cast<int64_t>((state = SplitMix64(state)) % static_cast<uint64_t>(below));
    };
    Make(static_cast<int>(1 + random(4)), 30);
    const SessionId sessions[] = {Create(), Create(200)};
    int asked = 0, ended = 0;
    std::vector<RequestId> ids;
    for (int call = 0; call < 40; ++call) {
      std::vector<RequestEvents> events(1 + random(5));
      for (RequestEvents& one : events) one.on_done = [&](const RequestResult&) { ++ended; };
      const auto many = static_cast<int>(events.size());
      const GenerateParams params = Most(1 + random(300));
      const std::vector<int32_t> tokens(1 + random(900), 1);
      const auto made = scheduler_->AskMany(sessions[random(2)], tokens, params, std::move(events));
      if (made.ok()) asked += many, ids.insert(ids.end(), made->begin(), made->end());
      for (int64_t steps = random(30); steps > 0; --steps) Step();
      if (random(3) == 0 && !ids.empty()) scheduler_->Cancel(ids[random(ids.size())]).IgnoreError();
    }
    Run();
    EXPECT_EQ(ended, asked) << trial;
    for (SessionId session : sessions) EXPECT_TRUE(scheduler_->CloseSession(session).ok());
    EXPECT_EQ(scheduler_->stats().pages_available, 30) << trial;
  }
}

}  // namespace
}  // namespace duo
