// Sessions: forks, rewinds, kept answers, admission, cancellation; and that no page is ever lost.
#include "tests/equivalence/engine_fixture.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

std::vector<int32_t> Join(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class EngineSessions : public EngineOnDevices {};
INSTANTIATE_ON_DEVICES(EngineSessions);

TEST_P(EngineSessions, AQuestionLeavesTheSessionAsItWas) {
  Bench bench = Open(Options());
  const SessionId session = bench.Open(480);
  bench.Append(session, Text(333, 1));
  const Reply before = bench.AskNow(session, Text(7, 2));
  bench.AskNow(session, Text(90, 3));
  EXPECT_EQ(bench.engine->Get(session)->tokens, 333);
  EXPECT_EQ(before.logits, bench.AskNow(session, Text(7, 2)).logits);
}

TEST_P(EngineSessions, AKeptAnswerIsPartOfTheSession) {
  Bench bench = Open(Options());
  const SessionId kept = bench.Open(480), plain = bench.Open(480);
  bench.Append(kept, Text(200, 1));
  Reply turn;
  GenerateParams params;
  params.max_new_tokens = 6;
  params.keep = true;
  bench.Ask(kept, Text(5, 2), &turn, params);
  bench.Run();
  EXPECT_EQ(bench.engine->Get(kept)->tokens, 211);
  const std::vector<int32_t> all = Join(Join(Text(200, 1), Text(5, 2)), turn.tokens);
  EXPECT_EQ(*bench.engine->Tokens(kept), all);
  bench.Append(plain, all);
  ExpectSame(bench.AskNow(plain, Text(4, 3)), bench.AskNow(kept, Text(4, 3)), Tolerance());
}

TEST_P(EngineSessions, RewindEqualsASessionThatNeverWentFurther) {
  Bench bench = Open(Options());
  const std::vector<int32_t> document = Text(400, 1), tail = Text(40, 2), question = Text(6, 3);
  for (int position : {0, 1, 3, 16, 127, 128, 129, 250, 256, 384, 399}) {
    SCOPED_TRACE(position);
    const SessionId rewound = bench.Open(480), fresh = bench.Open(480);
    bench.Append(rewound, document);
    bench.Run();
    ASSERT_TRUE(bench.engine->Rewind(rewound, position).ok());
    bench.Append(rewound, tail);
    bench.Append(fresh, Join({document.begin(), document.begin() + position}, tail));
    ExpectSame(bench.AskNow(fresh, question), bench.AskNow(rewound, question), Tolerance());
    ASSERT_TRUE(bench.engine->CloseSession(rewound).ok());
    ASSERT_TRUE(bench.engine->CloseSession(fresh).ok());
  }
}

// The question sees the rebuilt rings themselves: no text between has taken their place.
TEST_P(EngineSessions, AQuestionRightAfterARewindEqualsASessionThatNeverWentFurther) {
  Bench bench = Open(Options());
  const std::vector<int32_t> document = Text(400, 1);
  for (int position : {1, 3, 16, 21, 127, 128, 130, 250, 399}) {
    SCOPED_TRACE(position);
    const SessionId rewound = bench.Open(480), fresh = bench.Open(480);
    bench.Append(rewound, document);
    bench.Run();
    ASSERT_TRUE(bench.engine->Rewind(rewound, position).ok());
    bench.Append(fresh, {document.begin(), document.begin() + position});
    ExpectSame(bench.AskNow(fresh, Text(1, 3)), bench.AskNow(rewound, Text(1, 3)), Tolerance());
    ASSERT_TRUE(bench.engine->CloseSession(rewound).ok());
    ASSERT_TRUE(bench.engine->CloseSession(fresh).ok());
  }
}

TEST_P(EngineSessions, ForkAndParentGoTheirOwnWays) {
  Bench bench = Open(Options());
  const std::vector<int32_t> document = Text(300, 1), left = Text(110, 2), right = Text(130, 3), question = Text(5, 4);
  const SessionId parent = bench.Open(500), check = bench.Open(500);
  bench.Append(parent, document);
  bench.Run();
  auto fork = bench.engine->Fork(parent, 500);
  ASSERT_TRUE(fork.ok()) << fork.status();
  bench.Append(parent, left);
  bench.Append(*fork, right);
  const Reply parents = bench.AskNow(parent, question), forks = bench.AskNow(*fork, question);
  bench.Append(check, Join(document, right));
  ExpectSame(bench.AskNow(check, question), forks, Tolerance());
  ASSERT_TRUE(bench.engine->CloseSession(check).ok());
  const SessionId other = bench.Open(500);
  bench.Append(other, Join(document, left));
  ExpectSame(bench.AskNow(other, question), parents, Tolerance());
}

TEST_P(EngineSessions, RewindOfASharedDocumentLeavesTheForkAlone) {
  Bench bench = Open(Options());
  const SessionId parent = bench.Open(500);
  bench.Append(parent, Text(300, 1));
  bench.Run();
  auto fork = bench.engine->Fork(parent, 500);
  ASSERT_TRUE(fork.ok());
  const Reply before = bench.AskNow(*fork, Text(5, 4));
  ASSERT_TRUE(bench.engine->Rewind(parent, 130).ok());
  bench.Append(parent, Text(200, 9));
  bench.Run();
  EXPECT_EQ(before.logits, bench.AskNow(*fork, Text(5, 4)).logits);
}

TEST_P(EngineSessions, AFullEngineRefusesWithTheNumbersAndClosingMakesRoom) {
  EngineOptions options = Options();
  options.kv_tokens = 1024;
  options.sessions = 40;
  options.questions = 1;
  Bench bench = Open(options);
  std::vector<SessionId> open;
  absl::StatusOr<SessionId> next;
  while ((next = bench.engine->CreateSession(500)).ok()) open.push_back(*next);
  EXPECT_GE(open.size(), 4u);
  EXPECT_EQ(next.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(next.status().message().find("500 tokens need 4 pages"), std::string::npos) << next.status();
  bench.Append(open[0], Text(250, 1));
  bench.Run();
  EXPECT_EQ(bench.engine->Get(open[0])->tokens, 250);
  ASSERT_TRUE(bench.engine->CloseSession(open[1]).ok());
  EXPECT_TRUE(bench.engine->CreateSession(500).ok());
}

TEST_P(EngineSessions, TooMuchTextIsRefusedAndTheSessionStays) {
  Bench bench = Open(Options());
  const SessionId session = bench.Open(100);
  bench.Append(session, Text(60, 1));
  auto more = bench.engine->Append(session, Text(41, 2), {});
  EXPECT_EQ(more.status().code(), absl::StatusCode::kResourceExhausted);
  bench.Append(session, Text(40, 2));
  bench.Run();
  EXPECT_EQ(bench.engine->Get(session)->tokens, 100);
}

TEST_P(EngineSessions, BadRequestsAreRefused) {
  Bench bench = Open(Options());
  const SessionId session = bench.Open(100);
  EXPECT_EQ(bench.engine->Append(session + 7, {1}, {}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(bench.engine->Append(session, {}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  GenerateParams params;
  params.top_p = 0;
  EXPECT_EQ(bench.engine->Ask(session, {1}, params, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bench.engine->Rewind(session, 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bench.engine->CreateSession(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bench.engine->Cancel(99).code(), absl::StatusCode::kNotFound);
}

TEST_P(EngineSessions, WarmingUpLeavesNoTrace) {
  Bench bench = Open(Options());
  const EngineStats before = bench.engine->stats();
  ASSERT_TRUE(bench.engine->WarmUp().ok());
  const EngineStats after = bench.engine->stats();
  EXPECT_EQ(after.steps, 0);
  EXPECT_EQ(after.prefill_tokens + after.decode_tokens, 0);
  EXPECT_EQ(after.busy_seconds, 0);
  EXPECT_EQ(after.pages_free, before.pages_free);
  EXPECT_EQ(after.sessions, 0);
}

TEST_P(EngineSessions, NoPageIsLostInAThousandRandomOperations) {
  EngineOptions options = Options();
  options.kv_tokens = 2048;
  Bench bench = Open(options);
  const EngineStats before = bench.engine->stats();
  uint64_t state = 7;
  auto random = [&](int below) { return static_cast<int>((state = SplitMix64(state)) % below); };
  std::vector<SessionId> open;
  std::vector<RequestId> requests;
  int finished = 0;
  RequestEvents events;
  events.on_done = [&](const RequestResult&) { ++finished; };
  for (int i = 0; i < Scaled(1000); ++i) {
    const SessionId session = open.empty() ? 0 : open[random(open.size())];
    switch (random(8)) {
      case 0:
        if (auto id = bench.engine->CreateSession(1 + random(500)); id.ok()) open.push_back(*id);
        break;
      case 1:
        if (auto id = bench.engine->Fork(session, 500); id.ok()) open.push_back(*id);
        break;
      case 2:
        if (auto id = bench.engine->Append(session, Text(1 + random(200), i), events); id.ok()) requests.push_back(*id);
        break;
      case 3: {
        GenerateParams params;
        params.max_new_tokens = 1 + random(5);
        params.keep = random(2) == 0;
        if (auto id = bench.engine->Ask(session, Text(1 + random(30), i), params, events); id.ok())
          requests.push_back(*id);
        break;
      }
      case 4:
        if (!requests.empty()) (void)bench.engine->Cancel(requests[random(requests.size())]);
        break;
      case 5:
        if (auto info = bench.engine->Get(session); info.ok())
          (void)bench.engine->Rewind(session, random(info->tokens + 1));
        break;
      case 6:
        if (random(3) == 0 && bench.engine->CloseSession(session).ok()) std::erase(open, session);
        break;
      default:
        for (int steps = random(4); steps > 0; --steps) bench.engine->Step();
    }
  }
  bench.Run();
  EXPECT_EQ(finished, static_cast<int>(requests.size()));  // every request ended, exactly once
  for (SessionId session : open) EXPECT_TRUE(bench.engine->CloseSession(session).ok());
  const EngineStats after = bench.engine->stats();
  EXPECT_EQ(after.pages_free, before.pages_free);
  EXPECT_EQ(after.pages_available, before.pages_available);
  EXPECT_EQ(after.rings_free, before.rings_free);
  EXPECT_EQ(after.running + after.waiting + after.sessions, 0);
}

}  // namespace
}  // namespace duo
