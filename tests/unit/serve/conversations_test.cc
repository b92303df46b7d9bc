// A conversation in turns has the tokens that its chat template makes of the whole of it.
#include <algorithm>

#include "tests/unit/serve/tails_fixture.h"

namespace duo {
namespace {

using Conversations = Tails;

TEST_F(Conversations, AConversationHasTheTokensOfItsTurnsInOnePiece) {
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
TEST_F(Conversations, BehindAKeptAnswerTheTokensAreThoseOfTheWholeConversation) {
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
TEST_F(Conversations, TokensOfAKeptAnswerAreCutBesideQuestionsThatRun) {
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
  EXPECT_EQ(TokensWith("When?", "talk"), WholeChat({{"user", "Whose?"}, {"assistant", *said_}, {"user", "When?"}}));
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

TEST_F(Conversations, WhatCannotBeAConversationIsRefused) {
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
