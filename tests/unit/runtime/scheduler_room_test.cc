// What the scheduler promises about room: it is taken by need, before the first step that needs it, and nothing runs
// out half-way.
#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "kernels/base/splitmix64.h"
#include "runtime/scheduler/scheduler.h"
#include "tests/support/test_scale.h"
#include "tests/unit/runtime/scheduler_step.h"

namespace duo {
namespace {

constexpr int64_t kPages = 10;
constexpr int64_t kMost = 20 * kPageTokens;  // of a session: more than there are pages for

class SchedulerRoom : public testing::Test {
 protected:
  explicit SchedulerRoom(const KvSizes& sizes = Sizes()) : scheduler_(Options(), sizes, true, true) {}
  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.chunk = 256;
    options.sessions = 6;
    options.questions = 3;
    options.refeed = 100;
    return options;
  }
  static KvSizes Sizes() {
    KvSizes sizes;
    sizes.pages = kPages;
    sizes.split_pages = 4;
    sizes.slots = 4;
    sizes.rings = 10;
    sizes.tables = 9;
    sizes.table_pages = kMost / kPageTokens;
    return sizes;
  }
  bool Step() { return RunStep(scheduler_); }
  void Run() {
    while (Step()) {
    }
  }
  using Ended = std::optional<absl::Status>;
  RequestEvents Into(Ended* ended) {
    RequestEvents events;
    events.on_done = [ended](const RequestResult& result) { *ended = result.status; };
    return events;
  }
  SessionId Create(int64_t reserved = 0) {
    const absl::StatusOr<SessionId> id = scheduler_.CreateSession(kMost, reserved);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }
  RequestId Append(SessionId session, int64_t tokens, Ended* ended, int64_t more = 0) {
    absl::StatusOr<RequestId> id = scheduler_.Append(session, std::vector<int32_t>(tokens, 1), Into(ended), more);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }
  RequestId Ask(SessionId session, int64_t new_tokens, Ended* ended, bool keep = false) {
    GenerateParams params;
    params.max_new_tokens = new_tokens;
    params.keep = keep;
    absl::StatusOr<RequestId> id = scheduler_.Ask(session, {1, 2}, params, Into(ended));
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }
  int64_t Available() const { return scheduler_.stats().pages_available; }

  Scheduler scheduler_;
};

TEST_F(SchedulerRoom, ASessionReservesNothingUnlessAsked) {
  Create();
  const SessionId session = Create();
  EXPECT_EQ(Available(), kPages);
  Ended read, answered;
  Append(session, 3 * kPageTokens, &read);
  Run();
  Ask(session, 20, &answered);
  Run();
  EXPECT_TRUE(answered.value_or(absl::UnknownError("")).ok());
  Create(2 * kPageTokens + 1);
  EXPECT_EQ(Available(), kPages - 3 - 3);
  EXPECT_EQ(scheduler_.CreateSession(kMost, kPages * kPageTokens).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(SchedulerRoom, AnAppendHasAllItsRoomBeforeItReads) {
  const SessionId first = Create(), second = Create();
  Ended one, two;
  Append(first, 7 * kPageTokens, &one);
  Append(second, 4 * kPageTokens, &two);
  ASSERT_TRUE(Step());
  EXPECT_EQ(Available(), kPages - 7);
  ASSERT_TRUE(two.has_value());  // at once, and with the numbers
  EXPECT_EQ(two->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(two->message().find("4 pages"), absl::string_view::npos) << *two;
  EXPECT_NE(two->message().find("3 and"), absl::string_view::npos) << *two;
  Run();
  EXPECT_TRUE(one.value_or(absl::UnknownError("")).ok());
  EXPECT_EQ(scheduler_.Get(second)->tokens, 0);
  ASSERT_TRUE(scheduler_.CloseSession(first).ok());
  Append(second, 4 * kPageTokens, &two);
  Run();
  EXPECT_TRUE(two->ok()) << *two;
}

TEST_F(SchedulerRoom, WhatFollowsAnAppendHasItsRoomToo) {
  const SessionId session = Create(), other = Create();
  Ended read, refused;
  Append(session, kPageTokens, &read, 5 * kPageTokens);
  Run();
  EXPECT_EQ(Available(), kPages - 6);
  EXPECT_EQ(scheduler_.Get(session)->reserved_tokens, 6 * kPageTokens);
  Append(other, 5 * kPageTokens, &refused);
  Run();
  EXPECT_EQ(refused->code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(scheduler_.Reserve(session, 0).ok());  // it was given up
  EXPECT_EQ(Available(), kPages - 1);
}

TEST_F(SchedulerRoom, WhatOnlyQuestionsAreInTheWayOfWaitsForTheirEnd) {
  const SessionId asked = Create(), other = Create();
  Ended read, answered, appended;
  Append(asked, kPageTokens, &read);
  Run();
  Ask(asked, 4 * kPageTokens, &answered);
  ASSERT_TRUE(Step());
  Append(other, 8 * kPageTokens, &appended);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Step());
  EXPECT_FALSE(answered.has_value());
  EXPECT_FALSE(appended.has_value());
  EXPECT_EQ(scheduler_.Get(other)->tokens, 0);
  Run();
  EXPECT_TRUE(answered->ok()) << *answered;
  EXPECT_TRUE(appended->ok()) << *appended;
}

TEST_F(SchedulerRoom, AQuestionThatOtherSessionsLeaveNoRoomForIsRefused) {
  const SessionId asked = Create(), other = Create();
  Ended read, answered;
  Append(asked, kPageTokens, &read);
  Append(other, 8 * kPageTokens, &read);
  Run();
  Ask(asked, 4 * kPageTokens, &answered);
  Run();
  ASSERT_TRUE(answered.has_value());
  EXPECT_EQ(answered->code(), absl::StatusCode::kResourceExhausted);
  Ask(asked, 20, &answered);
  Run();
  EXPECT_TRUE(answered->ok()) << *answered;
}

// Split heads: an id is a page on each of four GPUs, and there are few of those, though whole pages are left.
class SchedulerSplitRoom : public SchedulerRoom {
 protected:
  static constexpr int64_t kIdTokens = 4 * kPageTokens;
  SchedulerSplitRoom() : SchedulerRoom(ManyPages()) {}
  static KvSizes ManyPages() {
    KvSizes sizes = Sizes();
    sizes.pages = 100;
    return sizes;
  }
  // Refused as it comes: it could never start, and would keep its session's place for ever.
  absl::Status Refused(SessionId session, int64_t new_tokens) {
    GenerateParams params;
    params.max_new_tokens = new_tokens;
    const absl::StatusOr<RequestId> asked = scheduler_.Ask(session, {1, 2}, params, {});
    EXPECT_FALSE(asked.ok()) << "it waits for ever";
    EXPECT_EQ(asked.status().code(), absl::StatusCode::kResourceExhausted) << asked.status();
    EXPECT_EQ(scheduler_.stats().waiting, 0);
    return asked.status();
  }
};

TEST_F(SchedulerSplitRoom, AQuestionThatItsOwnSessionLeavesNoIdsForIsRefused) {
  const SessionId session = Create(3 * kIdTokens);
  EXPECT_EQ(Refused(session, kIdTokens).message(),
            "the question and its answer need 2 split pages beside the 3 that the session has or was promised for 1536 "
            "tokens, and the cache has 4: ask for a shorter answer, or open the session with less reserved");
  Ended answered;
  Ask(session, kIdTokens - 2, &answered);  // one id
  Run();
  ASSERT_TRUE(answered.has_value());
  EXPECT_TRUE(answered->ok()) << *answered;
}

TEST_F(SchedulerSplitRoom, IdsThatAForkSharesCountOnce) {
  const SessionId session = Create();
  Ended read, answered;
  Append(session, 2 * kIdTokens + 1, &read);  // two full ones, which a fork shares, and a begun one
  Run();
  ASSERT_TRUE(read.has_value() && read->ok());
  EXPECT_NE(Refused(session, kIdTokens).message().find("need 2 split pages beside the 3 "), absl::string_view::npos);
  Ask(session, kIdTokens - 3, &answered);
  Run();
  ASSERT_TRUE(answered.has_value());
  EXPECT_TRUE(answered->ok()) << *answered;
}

TEST_F(SchedulerSplitRoom, AQuestionThatOtherSessionsLeaveNoIdsForIsRefused) {
  const SessionId asked = Create(), other = Create();
  Ended read, answered, beside;
  Append(asked, kPageTokens, &read);
  Append(other, 2 * kIdTokens, &read);
  Run();
  Ask(asked, kIdTokens, &answered);
  Run();
  ASSERT_TRUE(answered.has_value()) << "it waits for ever";
  EXPECT_EQ(answered->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(answered->message().find("need 2 split pages of 512 tokens, 1 of 4 are available"), absl::string_view::npos)
      << *answered;
  Ask(other, 20, &beside);  // it blocks nobody
  Run();
  EXPECT_TRUE(beside.value_or(absl::UnknownError("it waits")).ok());
  ASSERT_TRUE(scheduler_.CloseSession(other).ok());
  Ask(asked, kIdTokens, &answered);
  Run();
  EXPECT_TRUE(answered->ok()) << *answered;
}

TEST_F(SchedulerRoom, AKeptQuestionGivesBackWhatItsAnswerDidNotUse) {
  const SessionId session = Create();
  Ended answered;
  const RequestId request = Ask(session, 6 * kPageTokens, &answered, true);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Step());
  EXPECT_EQ(Available(), kPages - 7);
  ASSERT_TRUE(scheduler_.Cancel(request).ok());
  EXPECT_EQ(Available(), kPages - 1);
  ASSERT_TRUE(scheduler_.Rewind(session, 0).ok());
  EXPECT_EQ(Available(), kPages);
}

// Random calls: an append or an answer that has begun is never refused, and every page comes back.
TEST_F(SchedulerRoom, NothingRunsOutHalfWayWhateverIsCalled) {
  uint64_t state = 1;
  const auto random = [&](int64_t below) { return static_cast<int64_t>(SplitMix64(state++) % below); };
  std::vector<SessionId> open;
  std::vector<RequestId> requests;
  int refused = 0, ended = 0;
  const auto events = [&] {
    RequestEvents e;
    auto begun = std::make_shared<bool>(false);
    e.on_progress = [begun](int64_t done, int64_t) { *begun = *begun || done > 0; };
    e.on_done = [&, begun](const RequestResult& result) {
      ++ended;
      if (!absl::IsResourceExhausted(result.status)) return;
      ++refused;
      EXPECT_FALSE(*begun) << result.status;
    };
    return e;
  };
  const int calls = Scaled(20'000);
  for (int i = 0; i < calls; ++i) {
    const SessionId session = open.empty() ? 0 : open[random(static_cast<int64_t>(open.size()))];
    switch (random(12)) {
      case 0:
      case 1:
        if (auto id = scheduler_.CreateSession(1 + random(kMost), random(3) == 0 ? random(4 * kPageTokens) : 0);
            id.ok())
          open.push_back(*id);
        break;
      case 2:
        if (auto id = scheduler_.Fork(session, kMost, random(2) * random(6 * kPageTokens)); id.ok())
          open.push_back(*id);
        break;
      case 3:
        if (auto info = scheduler_.Get(session); info.ok()) {
          scheduler_.Rewind(session, random(info->tokens + 1)).IgnoreError();
        }
        break;
      case 4:
      case 5:
        if (auto id = scheduler_.Append(session, std::vector<int32_t>(1 + random(3 * kPageTokens), 1), events(),
                                        random(2) * random(2 * kPageTokens));
            id.ok())
          requests.push_back(*id);
        break;
      case 6:
      case 7: {
        GenerateParams params;
        params.max_new_tokens = 1 + random(2 * kPageTokens);
        params.keep = random(2) == 0;
        if (auto id = scheduler_.Ask(session, std::vector<int32_t>(1 + random(200), 2), params, events()); id.ok())
          requests.push_back(*id);
        break;
      }
      case 8:
        if (!requests.empty()) scheduler_.Cancel(requests[random(static_cast<int64_t>(requests.size()))]).IgnoreError();
        break;
      case 9:
        scheduler_.Reserve(session, random(kMost)).IgnoreError();
        break;
      case 10:
        if (random(3) == 0 && scheduler_.CloseSession(session).ok()) std::erase(open, session);
        break;
      default:
        break;
    }
    for (int64_t steps = random(20); steps > 0; --steps) Step();
  }
  EXPECT_GT(refused, 20);
  EXPECT_GT(ended, calls / 20);
  for (SessionId session : open) ASSERT_TRUE(scheduler_.CloseSession(session).ok());
  const EngineStats stats = scheduler_.stats();
  EXPECT_EQ(stats.pages_available, kPages);
  EXPECT_EQ(stats.split_pages_free, 4);
  EXPECT_EQ(stats.running + stats.waiting, 0);
  EXPECT_EQ(stats.rings_free, stats.rings);
}

}  // namespace
}  // namespace duo
