// Prompts that begin alike: what is read again, who waits for whom, and that what prompts leave is in nobody's way.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "kernels/base/splitmix64.h"
#include "runtime/scheduler/scheduler.h"
#include "tests/support/test_scale.h"
#include "tests/unit/runtime/scheduler_step.h"

namespace duo {
namespace {

constexpr int64_t kPages = 64;
constexpr int kSessions = 4, kQuestions = 3, kPrefixes = 5;

class SchedulerPrefix : public testing::Test {
 protected:
  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.chunk = 256;
    options.sessions = kSessions;
    options.questions = kQuestions;
    options.refeed = 100;
    options.prefixes = kPrefixes;
    options.prefix_least = 16;
    options.prefix_stop = 512;
    options.flop_per_token = 1e6;
    options.flop_per_token_pair = 1;
    options.flop_rate = 1e9;
    return options;
  }
  static KvSizes Sizes() {
    KvSizes sizes;
    sizes.pages = kPages;
    sizes.split_pages = kPages;
    sizes.slots = 2;
    sizes.tables = kSessions + kQuestions + kPrefixes;
    sizes.rings = sizes.tables + 1;
    sizes.table_pages = 40;
    return sizes;
  }
  void SetUp() override {
    const auto empty = scheduler_.CreateSession(1, 0);
    ASSERT_TRUE(empty.ok()) << empty.status();
    empty_ = *empty;
  }
  struct Told {
    CachedPrefix cached;  // also what is told at the start, but of answers that follow another
    bool follows = false;
    std::optional<RequestResult> result;
  };
  // `text` and, behind it, `more` tokens that follow from the seed.
  static std::vector<int32_t> Text(int64_t count, uint64_t seed, std::vector<int32_t> text = {}) {
    for (int64_t i = 0; i < count; ++i) text.push_back(static_cast<int32_t>(SplitMix64(seed * 100003 + i) % 1000));
    return text;
  }
  std::vector<RequestId> AskMany(std::vector<int32_t> tokens, const std::vector<Told*>& told, const std::string& realm,
                                 int64_t new_tokens) {
    GenerateParams params;
    params.max_new_tokens = new_tokens;
    params.prefix = {true, realm};
    std::vector<RequestEvents> events(told.size());
    for (size_t i = 0; i < told.size(); ++i) {
      told[i]->follows = i > 0;
      events[i].on_start = [one = told[i]](const CachedPrefix& cached) { one->cached = cached; };
      events[i].on_done = [one = told[i]](const RequestResult& result) { one->result = result; };
    }
    const auto ids = scheduler_.AskMany(empty_, std::move(tokens), params, std::move(events));
    EXPECT_TRUE(ids.ok()) << ids.status();
    return ids.value_or(std::vector<RequestId>(told.size()));
  }
  RequestId Ask(std::vector<int32_t> tokens, Told* told, const std::string& realm = "me", int64_t new_tokens = 4) {
    return AskMany(std::move(tokens), {told}, realm, new_tokens)[0];
  }
  // A step takes what its tokens do.
  bool Step() {
    return RunStep(scheduler_,
                   [](const StepPlan& plan) { return 1e-4 + 1e-3 * static_cast<double>(plan.tokens.size()); });
  }
  void Run() {
    while (Step()) {
    }
  }
  Told AskNow(std::vector<int32_t> tokens, const std::string& realm = "me") {
    Told told;
    Ask(std::move(tokens), &told, realm);
    Run();
    EXPECT_TRUE(told.result.has_value() && told.result->status.ok());
    return told;
  }
  void ExpectAllBack() {
    scheduler_.DropPrefixes();
    const EngineStats stats = scheduler_.stats();
    EXPECT_EQ(stats.pages_free, kPages);
    EXPECT_EQ(stats.pages_available, kPages);
    EXPECT_EQ(stats.split_pages_free, kPages);
    EXPECT_EQ(stats.rings_free, stats.rings - stats.sessions);
  }

  Scheduler scheduler_{Options(), Sizes(), true, true};
  SessionId empty_ = 0;
};

TEST_F(SchedulerPrefix, WhatAnotherPromptBeganWithIsNotReadAgain) {
  const std::vector<int32_t> document = Text(2000, 1);
  const Told first = AskNow(Text(30, 2, document));
  EXPECT_EQ(first.cached.tokens, 0);
  EXPECT_EQ(first.result->prompt_tokens, 2030);
  const Told second = AskNow(Text(30, 3, document));  // its rings are rebuilt, and the place is kept
  EXPECT_EQ(second.cached.tokens, 2000);
  EXPECT_EQ(second.cached.refed, 100);
  EXPECT_EQ(second.cached.from, CachedPrefix::From::kOpen);
  EXPECT_EQ(second.result->prompt_tokens, 30);
  const Told third = AskNow(Text(30, 4, document));
  EXPECT_EQ(third.cached.tokens, 2000);
  EXPECT_EQ(third.cached.refed, 0);
  const Told again = AskNow(Text(30, 2, document));  // all but the last token, before which the first one left a copy
  EXPECT_EQ(again.cached.tokens, 2029);
  EXPECT_EQ(again.cached.refed, 0);
  ExpectAllBack();
}

TEST_F(SchedulerPrefix, AConversationIsReadOnFromItsLastAnswer) {
  std::vector<int32_t> talk = Text(300, 1);
  AskNow(talk);
  talk.insert(talk.end(), 3, 7);  // the answer, but for its last token, which nobody had fed
  const Told next = AskNow(Text(40, 2, talk));
  EXPECT_EQ(next.cached.tokens, 303);
  EXPECT_EQ(next.cached.refed, 0);
}

TEST_F(SchedulerPrefix, OthersTextsAreNotLookedAt) {
  const std::vector<int32_t> document = Text(1000, 1);
  AskNow(Text(10, 2, document), "me");
  EXPECT_EQ(AskNow(Text(10, 3, document), "you").cached.tokens, 0);
  EXPECT_EQ(AskNow(Text(10, 4, document), "me").cached.tokens, 1000);
  Told mine, yours;  // nor joined
  const std::vector<int32_t> other = Text(1000, 9);
  Ask(Text(10, 2, other), &mine, "me");
  Ask(Text(10, 3, other), &yours, "you");
  Run();
  EXPECT_EQ(mine.cached.tokens, 0);
  EXPECT_EQ(yours.cached.tokens, 0);
}

TEST_F(SchedulerPrefix, AnOpenSessionIsMetByItsRealm) {
  const std::vector<int32_t> document = Text(1500, 1);
  const auto session = scheduler_.CreateSession(4000, 0);
  ASSERT_TRUE(session.ok());
  ASSERT_TRUE(scheduler_.Append(*session, document, {}).ok());
  Run();
  EXPECT_EQ(AskNow(Text(10, 2, document)).cached.tokens, 0);
  ASSERT_TRUE(scheduler_.LetMatch(*session, "me").ok());
  const Told told = AskNow(Text(10, 3, document), "me");
  EXPECT_EQ(told.cached.tokens, 1500);
  EXPECT_EQ(told.cached.refed, 0);
  EXPECT_EQ(told.cached.session, *session);
  ASSERT_TRUE(scheduler_.Rewind(*session, 700).ok());  // what prompts share of it does not hold it
  EXPECT_EQ(AskNow(Text(10, 4, document), "me").cached.tokens, 1500);
  ASSERT_TRUE(scheduler_.CloseSession(*session).ok());
  ExpectAllBack();
}

TEST_F(SchedulerPrefix, TwoAtOnceAreReadOnce) {
  const std::vector<int32_t> document = Text(2000, 1);
  Told first, second;
  const int64_t before = scheduler_.stats().prefill_tokens;
  Ask(Text(50, 2, document), &first);
  Ask(Text(60, 3, document), &second);
  Run();
  EXPECT_EQ(scheduler_.stats().prefill_tokens - before, 2000 + 50 + 60);
  EXPECT_EQ(first.cached.tokens, 0);
  EXPECT_EQ(second.cached.tokens, 2000);
  EXPECT_EQ(second.cached.refed, 0);
  EXPECT_EQ(second.cached.from, CachedPrefix::From::kRead);
  EXPECT_EQ(AskNow(Text(5, 4, document)).cached.refed, 0);  // where they parted is a place of its own
  ExpectAllBack();
}

// The prompt's rings are rebuilt once, by the answer that reads it; the others fork when that is done.
TEST_F(SchedulerPrefix, SeveralAnswersToAPromptThatIsCachedWaitForItsRings) {
  const std::vector<int32_t> prompt = Text(300, 1);  // too short to leave a copy before its last token
  AskNow(prompt);
  std::vector<Told> told(3);
  AskMany(prompt, {&told[0], &told[1], &told[2]}, "me", 4);
  const int64_t refed = scheduler_.stats().prefix.refed_tokens;
  Run();
  for (const Told& one : told) {
    ASSERT_TRUE(one.result.has_value());
    EXPECT_TRUE(one.result->status.ok()) << one.result->status;
    EXPECT_EQ(one.result->new_tokens, 4);
    EXPECT_EQ(one.result->cached.tokens, 299);
  }
  EXPECT_EQ(scheduler_.stats().prefix.refed_tokens - refed, 100);
  ExpectAllBack();
}

TEST_F(SchedulerPrefix, WhoWaitsForAReadThatIsCancelledGoesOnWithWhatIsRead) {
  const std::vector<int32_t> document = Text(2000, 1);
  Told first, second, retry;
  const RequestId read = Ask(Text(50, 2, document), &first);
  Ask(Text(60, 3, document), &second);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Step());
  EXPECT_FALSE(second.result.has_value());
  ASSERT_TRUE(scheduler_.Cancel(read).ok());
  Run();
  ASSERT_TRUE(second.result.has_value() && second.result->status.ok());
  EXPECT_GE(second.cached.tokens, 3 * 256);
  EXPECT_EQ(second.cached.tokens % 128, 0);
  EXPECT_EQ(second.cached.tokens + second.result->prompt_tokens, 2060);
  ExpectAllBack();
}

TEST_F(SchedulerPrefix, AnotherPromptDoesNotWaitBehindOneThatJoins) {
  Told read, joins, other;
  const std::vector<int32_t> document = Text(3000, 1);
  Ask(Text(50, 2, document), &read);
  Ask(Text(60, 3, document), &joins);
  Ask(Text(20, 4), &other);
  while (!other.result.has_value()) ASSERT_TRUE(Step());
  EXPECT_FALSE(joins.result.has_value());
  Run();
  EXPECT_EQ(joins.cached.tokens, 3000);
}

// Its tokens would be taken for those behind the session's, or the session's for its own.
TEST_F(SchedulerPrefix, AWholePromptOnASessionThatHasTokensIsRefused) {
  const std::vector<int32_t> document = Text(600, 1);
  ASSERT_TRUE(scheduler_.LetMatch(empty_, "me").ok());
  const SessionId session = *scheduler_.CreateSession(2000, 0);
  Told before, behind, other;
  const auto ask = [&](SessionId id, bool whole, Told* told) {
    GenerateParams params;
    params.max_new_tokens = 4;
    params.prefix = {whole, "me"};
    RequestEvents events;
    events.on_done = [told](const RequestResult& result) { told->result = result; };
    ASSERT_TRUE(scheduler_.Ask(id, Text(700, 2, document), params, std::move(events)).ok());
  };
  ask(session, true, &before);  // while it is empty
  ASSERT_TRUE(scheduler_.Append(session, document, {}).ok());
  ask(session, true, &behind);
  ask(session, false, &other);
  Run();
  ASSERT_TRUE(before.result.has_value() && behind.result.has_value() && other.result.has_value());
  EXPECT_TRUE(before.result->status.ok()) << before.result->status;
  EXPECT_EQ(before.result->prompt_tokens, 1300);
  EXPECT_EQ(behind.result->status.code(), absl::StatusCode::kFailedPrecondition) << behind.result->status;
  EXPECT_NE(behind.result->status.message().find("has 600 tokens"), std::string::npos) << behind.result->status;
  EXPECT_TRUE(other.result->status.ok()) << other.result->status;
  ASSERT_TRUE(scheduler_.CloseSession(session).ok());
  ExpectAllBack();
}

TEST_F(SchedulerPrefix, WhatPromptsLeaveGivesWay) {
  for (uint64_t i = 0; i < 3; ++i) AskNow(Text(2000, i));  // 16 pages each
  EXPECT_LT(scheduler_.stats().pages_available, 32);
  EXPECT_GT(scheduler_.stats().prefixes, 0);
  const auto session = scheduler_.CreateSession(40 * kPageTokens);
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_GT(scheduler_.stats().prefix.evictions, 0);
  const auto second = scheduler_.CreateSession(24 * kPageTokens);  // all that there is
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(scheduler_.stats().prefixes, 0);
  ASSERT_TRUE(scheduler_.CloseSession(*session).ok());
  ASSERT_TRUE(scheduler_.CloseSession(*second).ok());
  ExpectAllBack();
}

TEST_F(SchedulerPrefix, WhatIsBehindTheSharedPartGivesWayToo) {
  const std::vector<int32_t> document = Text(2500, 1);
  AskNow(Text(2500, 2, document));  // 40 pages of 64
  const Told told = AskNow(Text(2500, 3, document));
  EXPECT_EQ(told.cached.tokens, 2500);
  ExpectAllBack();
}

// Whatever is asked, cancelled, opened and closed: each ends, what is cached is the same text, and nothing is lost.
TEST_F(SchedulerPrefix, NothingIsLostWhateverHappens) {
  uint64_t random = FirstSeed(17);
  const auto draw = [&](uint64_t below) {
    random = SplitMix64(random + 1);
    return random % below;
  };
  std::map<RequestId, std::unique_ptr<Told>> told;
  std::vector<SessionId> sessions;
  int64_t hits = 0, joins = 0, refed = 0, done = 0;
  for (int i = 0; i < Scaled(3000); ++i) {
    const uint64_t what = draw(100);
    if (what < 45 && told.size() < 100) {
      std::vector<int32_t> tokens = Text(100 + 300 * static_cast<int64_t>(draw(3)), 1 + draw(3));
      tokens.resize(50 + draw(tokens.size() - 50));
      tokens = Text(1 + static_cast<int64_t>(draw(700)), 10 + draw(4), std::move(tokens));
      std::vector<std::unique_ptr<Told>> asked(draw(8) == 0 ? 3 : 1);
      std::vector<Told*> each;
      for (auto& one : asked) each.push_back((one = std::make_unique<Told>()).get());
      const std::vector<RequestId> ids = AskMany(std::move(tokens), each, draw(4) == 0 ? "you" : "me", 1 + draw(20));
      for (size_t n = 0; n < ids.size(); ++n) told.emplace(ids[n], std::move(asked[n]));
    } else if (what < 50 && !told.empty()) {
      scheduler_.Cancel(std::next(told.begin(), static_cast<int64_t>(draw(told.size())))->first).IgnoreError();
    } else if (what < 55 && sessions.size() + 1 < kSessions) {
      const auto made = scheduler_.CreateSession(30 * kPageTokens, static_cast<int64_t>(draw(20)) * kPageTokens);
      if (!made.ok()) continue;
      sessions.push_back(*made);
      ASSERT_TRUE(scheduler_.LetMatch(*made, "me").ok());
    } else if (what < 65 && !sessions.empty()) {
      scheduler_.Append(sessions[draw(sessions.size())], Text(1 + static_cast<int64_t>(draw(500)), 1), {})
          .status()
          .IgnoreError();
    } else if (what < 68 && !sessions.empty()) {
      const SessionId id = sessions[draw(sessions.size())];
      scheduler_.Rewind(id, static_cast<int64_t>(draw(scheduler_.Get(id)->tokens + 1))).IgnoreError();
    } else if (what < 70 && !sessions.empty()) {
      ASSERT_TRUE(scheduler_.CloseSession(sessions.back()).ok());
      sessions.pop_back();
    } else {
      for (uint64_t n = draw(8); n > 0 && Step(); --n) {
      }
    }
    if (what >= 98) Run();
    std::erase_if(told, [&](const auto& each) {
      const Told& one = *each.second;
      if (!one.result.has_value()) return false;
      if (!one.follows) {
        EXPECT_EQ(one.cached.tokens, one.result->cached.tokens);
      }
      if (!one.result->status.ok()) return true;
      const CachedPrefix& cached = one.result->cached;
      hits += cached.tokens > 0;
      joins += cached.from == CachedPrefix::From::kRead;
      refed += cached.refed > 0;
      ++done;
      return true;
    });
    ASSERT_LE(scheduler_.stats().prefixes, kPrefixes);
  }
  Run();
  for (const auto& [id, one] : told) EXPECT_TRUE(one->result.has_value()) << "request " << id << " did not end";
  for (SessionId id : sessions) ASSERT_TRUE(scheduler_.CloseSession(id).ok());
  EXPECT_GT(4 * hits, done);
  EXPECT_GT(20 * joins, done);
  EXPECT_GT(20 * refed, done);
  ExpectAllBack();
}

// Tokens that each of a row of prompts finds, where steps take any time from a tenth of a millisecond to a second.
std::vector<int64_t> FoundWhereStepsTakeAnyTime(SchedulerOptions options, const KvSizes& sizes, bool measured,
                                                uint64_t seed) {
  options.measured = measured;
  Scheduler scheduler(options, sizes, true, true);
  const SessionId empty = *scheduler.CreateSession(1, 0);
  std::vector<int32_t> text;
  std::vector<int64_t> found;
  for (uint64_t turn = 0; turn < 60; ++turn) {
    // Each goes on behind the one before, less its end, so that far places with rings compete with near ones without.
    text.resize(text.size() - std::min(text.size(), SplitMix64(turn) % 120));
    if (text.size() > 3000) text.resize(200);
    for (uint64_t i = 0; i < 150; ++i) text.push_back(static_cast<int32_t>(SplitMix64(turn * 1000 + i) % 1000));
    GenerateParams params;
    params.max_new_tokens = 3;
    params.prefix = {true, "me"};
    RequestEvents events;
    events.on_start = [&found](const CachedPrefix& cached) { found.push_back(cached.tokens); };
    EXPECT_TRUE(scheduler.Ask(empty, text, params, std::move(events)).ok());
    while (RunStep(scheduler, [&seed](const StepPlan&) {
      seed = SplitMix64(seed + 1);
      return 1e-4 * std::pow(10.0, static_cast<double>(seed % 1000) / 250);
    })) {
    }
  }
  EXPECT_EQ(found.size(), 60);
  return found;
}

TEST_F(SchedulerPrefix, WherePromptsGoOnFollowsFromTheCallsAloneWhereTimesAreGuessed) {
  const auto found = [](bool measured, uint64_t seed) {
    return FoundWhereStepsTakeAnyTime(Options(), Sizes(), measured, seed);
  };
  const std::vector<int64_t> guessed = found(false, 1);
  for (uint64_t seed = 2; seed < 6; ++seed) EXPECT_EQ(found(false, seed), guessed) << "seed " << seed;
  EXPECT_NE(found(true, 1), found(true, 2)) << "the prompts are such that it matters";
}

}  // namespace
}  // namespace duo
