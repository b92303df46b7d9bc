// Text that stays text until no later one can change its tokens: whatever becomes of the session meanwhile, its tokens
// are in the end those of the whole text in one piece.
#include <algorithm>

#include "kernels/base/splitmix64.h"
#include "tests/support/test_scale.h"
#include "tests/unit/serve/sessions_by_hand.h"

namespace duo {
namespace {

constexpr char kTemplate[] =
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim + '<|end_of_text|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

class Tails : public SessionsByHand {
 protected:
  using Ids = std::vector<int32_t>;

  Tails() {
    const ChatTemplateSource source{"", "template", kTemplate};
    chat_ = ChatTemplate({&source, 1}, {});
  }
  void SetUp() override {
    SessionsByHand::SetUp();
    Create("doc");
  }
  void Create(const std::string& id, bool durable = false, bool chat = false, const std::string& system = "") {
    const auto made =
        sessions_->Create({.id = id, .max_tokens = 1000, .durable = durable, .chat = chat, .system = system});
    ASSERT_TRUE(made.ok()) << made.status();
  }
  CallPtr Begin(AppendInput input) {
    auto call = std::make_shared<Call>();
    ended_.reset();
    const auto opened = sessions_->OpenAppend(input.session_id, input.append_id);
    EXPECT_TRUE(opened.ok()) << opened.status();
    AppendEvents events;
    events.on_done = [this](const AppendDone& done) { ended_ = done.status; };
    sessions_->ReadAppend(call, std::move(input), std::move(events));
    return call;
  }
  void AddWhole(AppendInput input) {
    Begin(std::move(input));
    Run();
    ASSERT_TRUE(ended_.has_value());
    ASSERT_TRUE(ended_->ok()) << *ended_;
  }
  void Add(const std::string& text, const std::string& id = "doc") { AddWhole({.session_id = id, .text = text}); }
  // All tokens that the session has when this question has been asked, without the answer's one.
  Ids TokensAfter(const std::string& id, QuestionInput question) {
    Ids tokens;
    sessions_->Fork(std::make_shared<Call>(), id, "asked", 0, [](const auto& view) { EXPECT_TRUE(view.ok()); });
    Run();
    EXPECT_TRUE(Keep("asked", std::move(question)).ok());
    EXPECT_TRUE(Save("asked").ok());
    const auto texts = store_->ReadTexts("asked");
    EXPECT_TRUE(texts.ok()) << texts.status();
    if (texts.ok()) tokens = texts->tokens;
    EXPECT_TRUE(CloseNow("asked", true).ok());
    if (!tokens.empty()) tokens.pop_back();
    return tokens;
  }
  Ids TokensWith(const std::string& question, const std::string& id = "doc") {
    return TokensAfter(id, {.text = question});
  }
  absl::Status Keep(const std::string& id, QuestionInput question, CallPtr call = std::make_shared<Call>()) {
    absl::Status status = absl::UnknownError("not done");
    AskEvents events;
    if (said_.has_value()) events.said = [this] { return *said_; };
    events.on_token = [](int32_t) { return true; };
    events.on_done = [&](const RequestResult& result, int64_t) { status = result.status; };
    GenerateParams params;
    params.max_new_tokens = 1;
    params.keep = true;
    sessions_->AskText(call, id, std::move(question), params, events);
    Run();
    return status;
  }
  void RunUntilItReads(const std::string& id) {
    while (View(id).tokens == 0) {
      ASSERT_FALSE(ended_.has_value()) << *ended_;
      sessions_->Tick();
      engine_->Step();
    }
  }
  absl::Status Restore() {
    absl::Status restored = absl::UnknownError("not done");
    sessions_->Restore(std::make_shared<Call>(), "doc", "", 0, [&](const SaveDone& done) { restored = done.status; });
    Run();
    return restored;
  }
  Ids WholeChat(const std::vector<Message>& messages) const {
    return *tokenizer_.EncodeSegments(*chat_->Render(messages, true));
  }
  std::optional<std::string> said_;  // what kept answers tell as their texts
  Ids Whole(const std::string& text) const { return *tokenizer_.Encode(text, {.add_special_tokens = false}); }
  SessionView View(const std::string& id = "doc") const { return *sessions_->Get(id); }
};

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

TEST_F(Tails, AConversationHasTheTokensOfItsTurnsInOnePiece) {
  for (const std::string system : {"", "Be brief."}) {
    Create("talk", false, true, system);
    Add("  ", "talk");
    Add(" A rea", "talk");
    Add("d letter.\n", "talk");
    std::vector<Message> messages;
    if (!system.empty()) messages.push_back({"system", system});
    messages.push_back({"user", "A read letter.\n\nWhose?"});
    const Ids first = *tokenizer_.EncodeSegments(*chat_->Render(messages, true));
    EXPECT_EQ(TokensWith(" Whose?\n", "talk"), first);
    ASSERT_TRUE(Keep("talk", {.text = "Whose?"}).ok());
    ASSERT_EQ(View("talk").tokens, static_cast<int64_t>(first.size()) + 1);
    const Ids second = TokensWith("When?", "talk");
    const std::vector<TextSegment> next = {
        {"<|end_of_text|><user>", true}, {"When?", false}, {"<|end_of_text|><assistant>", true}};
    const Ids more = *tokenizer_.EncodeSegments(next, false, true);
    ASSERT_EQ(second.size(), first.size() + 1 + more.size());
    EXPECT_TRUE(std::equal(more.rbegin(), more.rend(), second.rbegin()));
    Rewind("talk", 0);
    Add("A read letter.\n", "talk");
    EXPECT_EQ(TokensWith("Whose?", "talk"), first) << "from the beginning, with its system turn";
    ASSERT_TRUE(CloseNow("talk", true).ok());
  }
}

// Whatever tokens an answer was drawn as, and whatever the template does with its text once more follows.
TEST_F(Tails, BehindAKeptAnswerTheTokensAreThoseOfTheWholeConversation) {
  for (const std::string said : {"a cat", " spaced \n", "</think>its 1", ""}) {
    said_ = said;
    Create("talk", false, true, "Be brief.");
    Add("A read letter.", "talk");
    ASSERT_TRUE(Keep("talk", {.text = "Whose?"}).ok());
    std::vector<Message> messages = {
        {"system", "Be brief."}, {"user", "A read letter.\n\nWhose?"}, {"assistant", said}, {"user", "When?"}};
    EXPECT_EQ(TokensWith("When?", "talk"), WholeChat(messages)) << said;
    ASSERT_TRUE(Save("talk").ok());
    ASSERT_TRUE(CloseNow("talk").ok());
    absl::Status restored = absl::UnknownError("not done");
    sessions_->Restore(std::make_shared<Call>(), "talk", "", 0, [&](const SaveDone& done) { restored = done.status; });
    Run();
    ASSERT_TRUE(restored.ok()) << restored;
    EXPECT_EQ(TokensWith("When?", "talk"), WholeChat(messages)) << said << ", restored";
    ASSERT_TRUE(Keep("talk", {.text = "When?"}).ok());
    messages.insert(messages.end(), {{"assistant", said}, {"user", "More of it.\n\nWhy?"}});
    Add("More", "talk");
    Add(" of it.", "talk");
    EXPECT_EQ(TokensWith("Why?", "talk"), WholeChat(messages)) << said << ", behind a document";
    ASSERT_TRUE(CloseNow("talk", true).ok());
  }
}

// A question that is not kept cuts what differs once, while another one runs on those pages.
TEST_F(Tails, TokensOfAKeptAnswerAreCutBesideQuestionsThatRun) {
  said_ = "another text than the token that was drawn";
  Create("talk", false, true);
  ASSERT_TRUE(Keep("talk", {.text = "Whose?"}).ok());
  const int64_t kept = View("talk").tokens;
  Asked beside;
  Ask("talk", 400, &beside);
  for (int i = 0; i < 20; ++i) {
    sessions_->Tick();
    engine_->Step();
  }
  ASSERT_FALSE(beside.ended.has_value());
  EXPECT_EQ(TokensWith("When?", "talk"),
            WholeChat({{"user", "Whose?"}, {"assistant", *said_}, {"user", "When?"}}));
  EXPECT_EQ(View("talk").tokens, kept) << "TokensWith asks a fork";
  said_.reset();
  Asked reads;
  QuestionInput question{.text = "When?"};
  AskEvents events;
  events.on_token = [](int32_t) { return true; };
  events.on_done = [&](const RequestResult& result, int64_t history) {
    reads.ended = result.status;
    reads.history = history;
  };
  GenerateParams params;
  params.max_new_tokens = 1;
  sessions_->AskText(reads.call, "talk", question, params, events);
  Run();
  ASSERT_TRUE(reads.ended.has_value());
  EXPECT_TRUE(reads.ended->ok()) << *reads.ended;
  EXPECT_LT(reads.history, kept);
  EXPECT_EQ(View("talk").tokens, reads.history);
  ASSERT_TRUE(beside.ended.has_value());
  EXPECT_TRUE(beside.ended->ok()) << *beside.ended;
}

TEST_F(Tails, WhatCannotBeAConversationIsRefused) {
  Create("talk", false, true);
  EXPECT_TRUE(absl::IsInvalidArgument(Keep("talk", {.text = " \n"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Keep("talk", {.text = "x", .seam = true})));
  Add("text");
  Begin({.session_id = "doc", .text = "x", .chat = true});
  Run();
  EXPECT_TRUE(absl::IsFailedPrecondition(*ended_)) << *ended_;
  chat_ = absl::NotFoundError("tokenizer_config.json: no chat_template");
  EXPECT_EQ(sessions_->Create({.id = "none", .chat = true}).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace duo
