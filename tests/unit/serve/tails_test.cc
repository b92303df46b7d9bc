// Text that stays text until no later one can change its tokens: whatever becomes of the session meanwhile, its tokens
// are in the end those of the whole text in one piece.
#include <algorithm>

#include "kernels/base/splitmix64.h"
#include "tests/support/test_scale.h"
#include "tests/unit/serve/tails_fixture.h"

namespace duo {
namespace {

const std::string kText = "The cat's 1234 hats, caf\u00e9s and \U0001f600\U0001f44d\U0001f3fd smiles\n\n  are  hers.";

TEST_F(Tails, HoweverATextIsCutItsTokensAreThoseOfOnePiece) {
  uint64_t random = SplitMix64(7);
  for (int trial = 0; trial < Scaled(12); ++trial) {
    const std::string question = trial % 3 == 0 ? "s' end?" : trial % 3 == 1 ? " Why?" : "\u0301!";
    std::vector<size_t> cuts = {0, kText.size()};
    for (int i = 0; i < 3; ++i) cuts.push_back((random = SplitMix64(random + 1)) % (kText.size() + 1));
    std::sort(cuts.begin(), cuts.end());
    const std::string id = "cut" + std::to_string(trial);
    Create(id);
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const std::string piece = kText.substr(cuts[i], cuts[i + 1] - cuts[i]);
      if (!piece.empty()) Add(piece, id);
    }
    EXPECT_EQ(TokensWith(question, id), Whole(kText + question)) << testing::PrintToString(cuts);
    EXPECT_EQ(View(id).tail_bytes, 1) << "the last sign may go on";
    ASSERT_TRUE(CloseNow(id).ok());
  }
}

TEST_F(Tails, ASeamIsWhereATextIsAskedToBeOneOfItsOwn) {
  Add("read");
  EXPECT_EQ(View().tokens, 0);
  EXPECT_EQ(View().tail_bytes, 4);
  Ids expected = Whole("read");
  for (const Ids& more : {Whole("ing"), Whole("s")}) expected.insert(expected.end(), more.begin(), more.end());
  AddWhole({.session_id = "doc", .text = "ing", .seam = true});
  EXPECT_EQ(View().tail_bytes, 0);
  EXPECT_EQ(TokensWith("s"), expected) << "it has one at its end too";
  Add("ing");
  Ids kept = Whole("read");
  for (const Ids& more : {Whole("ing"), Whole("ing"), Whole("s")}) kept.insert(kept.end(), more.begin(), more.end());
  EXPECT_EQ(TokensAfter("doc", {.text = "s", .seam = true}), kept);
}

TEST_F(Tails, TokensReadTheTailAndARewindDropsIt) {
  Add("read");
  Ids expected = Whole("read");
  expected.push_back(77);
  EXPECT_EQ(TokensAfter("doc", {.tokens = {77}}), expected);
  EXPECT_EQ(View().tail_bytes, 4) << "a question that is not kept changes nothing";
  AddWhole({.session_id = "doc", .tokens = {77}});
  EXPECT_EQ(View().tail_bytes, 0);
  EXPECT_EQ(View().tokens, static_cast<int64_t>(expected.size()));
  Add("ing");
  Rewind("doc", static_cast<int64_t>(expected.size()));
  EXPECT_EQ(View().tail_bytes, 0);
  expected.push_back(Whole("s")[0]);
  EXPECT_EQ(TokensWith("s"), expected);
}

TEST_F(Tails, SavesForksMovesAndRereadsKeepTheTail) {
  const std::string half = kText + " more" + std::string("\U0001f600").substr(0, 2);
  const std::string rest = std::string("\U0001f600").substr(2) + " of it";
  Add(half);
  ASSERT_EQ(View().tail_bytes, 7);
  const Ids expected = Whole(half + rest);
  EXPECT_EQ(TokensWith(rest), expected) << "a fork";
  ASSERT_TRUE(Save("doc").ok());
  ASSERT_TRUE(CloseNow("doc").ok());
  EXPECT_EQ(View().tail_bytes, 7) << "listed as it is saved";
  ASSERT_TRUE(Restore().ok());
  EXPECT_EQ(TokensWith(rest), expected);
  ASSERT_TRUE(Save("doc").ok());
  ASSERT_TRUE(CloseNow("doc").ok());
  ASSERT_TRUE(Reread("doc").ok());
  EXPECT_EQ(TokensWith(rest), expected);
  sessions_->MoveOutIdle(0);
  Run();
  ASSERT_EQ(View().residence, Residence::kMovedOut);
  EXPECT_EQ(View().tail_bytes, 7);
  Open();  // a crash: it was open, and is there again
  EXPECT_EQ(View().tail_bytes, 7);
  EXPECT_EQ(TokensWith(rest), expected);
}

TEST_F(Tails, AnAppendThatIsDoneIsOnDiskThoughItIsAllTail) {
  Create("durable", true);
  AddWhole({.session_id = "durable", .append_id = "a", .text = "read"});
  EXPECT_EQ(View("durable").tokens, 0);
  Open();  // a crash
  EXPECT_EQ(View("durable").tail_bytes, 4);
  EXPECT_TRUE(View("durable").append->done);
  AddWhole({.session_id = "durable", .append_id = "a", .text = "read"});  // once only
  EXPECT_EQ(TokensWith("ing", "durable"), Whole("reading"));
}

TEST_F(Tails, AnAppendThatIsUndoneLeavesTheTailThatWasThereBefore) {
  const std::string text = Text(150, 1);
  for (const std::string append_id : {"", "a"}) {
    SCOPED_TRACE(append_id);
    Create("undone", true);
    Add("read", "undone");
    const CallPtr call = Begin({.session_id = "undone", .append_id = append_id, .text = "ing" + text});
    RunUntilItReads("undone");
    sessions_->Cancel(call);
    Run();
    EXPECT_TRUE(absl::IsCancelled(*ended_)) << *ended_;
    if (!append_id.empty()) {
      Open();  // a crash: what was saved before it counts, too; the durable session reads on by itself
      Run();
      EXPECT_EQ(View("undone").append->done, true);
      ASSERT_TRUE(CloseNow("undone", true).ok());
      continue;
    }
    EXPECT_EQ(View("undone").tokens, 0);
    EXPECT_EQ(View("undone").tail_bytes, 4);
    EXPECT_EQ(TokensWith(" it", "undone"), Whole("read it"));
    ASSERT_TRUE(CloseNow("undone", true).ok());
  }
}

TEST_F(Tails, AStoppedAppendIsRewoundToTheTailBeforeItAndRepeatedToTheOneBehindIt) {
  Add("read");
  const std::string text = "ing" + Text(150, 1);
  for (bool again : {false, true}) {
    const CallPtr call = Begin({.session_id = "doc", .append_id = "a", .text = text});
    RunUntilItReads("doc");
    sessions_->Cancel(call);
    Run();
    EXPECT_TRUE(absl::IsCancelled(*ended_)) << *ended_;
    sessions_->SaveAll();
    Run();
    ASSERT_TRUE(CloseNow("doc").ok());
    ASSERT_TRUE(Restore().ok()) << "what it was before is on disk, too";
    if (again) break;
    Rewind("doc", 0);
    EXPECT_EQ(View().tail_bytes, 4);
    EXPECT_EQ(TokensWith("s"), Whole("reads"));
  }
  AddWhole({.session_id = "doc", .append_id = "a", .text = text});
  EXPECT_EQ(TokensWith("x"), Whole("read" + text + "x"));
}

TEST_F(Tails, TextGoesOnBehindAKeptAnswerAndAQuestionThatFailsLeavesTheTail) {
  Add("read");
  auto cancelled = std::make_shared<Call>();
  cancelled->cancelled = true;
  EXPECT_TRUE(absl::IsCancelled(Keep("doc", {.text = "ing"}, cancelled)));
  EXPECT_EQ(View().tail_bytes, 4);
  ASSERT_TRUE(Keep("doc", {.text = "ing"}).ok());
  const auto before = static_cast<int64_t>(Whole("reading").size()) + 1;
  EXPECT_EQ(View().tail_bytes, 0);
  EXPECT_EQ(View().tokens, before);
  Add("more text");
  EXPECT_EQ(View().tokens, before + static_cast<int64_t>(Whole("more").size()));
  EXPECT_EQ(View().tail_bytes, 5);
}

// A kept question of several chunks that is cancelled in the middle leaves nothing.
TEST_F(Tails, AKeptQuestionThatIsStoppedInTheMiddleIsUndone) {
  Add("read");
  const std::string question = "ing" + Text(200, 3);
  auto call = std::make_shared<Call>();
  absl::Status status = absl::UnknownError("not done");
  AskEvents events;
  events.on_token = [](int32_t) { return true; };
  events.on_done = [&](const RequestResult& result, int64_t) { status = result.status; };
  GenerateParams params;
  params.keep = true;
  sessions_->AskText(call, "doc", {.text = question}, params, events);
  while (View().tokens == 0) engine_->Step();
  sessions_->Cancel(call);
  Run();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(View().tokens, 0);
  EXPECT_EQ(TokensWith("s"), Whole("reads"));
}

// While a text becomes tokens the turn is its call's; what comes later waits, and what is closed meanwhile ends.
TEST_F(Tails, TheTurnIsTheCallsWhileItsTextBecomesTokens) {
  beside_ = true;
  Open();
  Create("doc");
  Begin({.session_id = "doc", .text = "read"});
  Asked asked;
  AskEvents events;
  events.on_done = [&](const RequestResult& result, int64_t) { asked.ended = result.status; };
  GenerateParams params;
  params.max_new_tokens = 1;
  params.keep = true;
  sessions_->AskText(asked.call, "doc", {.text = "ing"}, params, events);
  Run();
  EXPECT_FALSE(ended_.has_value());
  EXPECT_EQ(View().pending, 2);
  EXPECT_FALSE(sessions_->Quiet());
  RunBeside();
  Run();
  EXPECT_TRUE(ended_.has_value());
  EXPECT_FALSE(asked.ended.has_value()) << "its own text is next";
  RunBeside();
  Run();
  ASSERT_TRUE(asked.ended.has_value());
  EXPECT_TRUE(asked.ended->ok()) << *asked.ended;
  EXPECT_EQ(View().tokens, static_cast<int64_t>(Whole("reading").size()) + 1);

  Begin({.session_id = "doc", .text = "read"});
  ASSERT_TRUE(CloseNow("doc").ok());
  Create("doc");  // another of its name
  RunBeside();
  Run();
  ASSERT_TRUE(ended_.has_value());
  EXPECT_TRUE(absl::IsCancelled(*ended_)) << *ended_;
  EXPECT_EQ(View().tail_bytes, 0);
}

}  // namespace
}  // namespace duo
