// Appends and questions whose texts become tokens, with a chat template, told one after the other.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/serve/sessions_by_hand.h"

namespace duo {

inline constexpr char kTailsTemplate[] =
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content | trim + '<|end_of_text|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

class Tails : public SessionsByHand {
 protected:
  using Ids = std::vector<int32_t>;

  Tails() {
    const ChatTemplateSource source{"", "template", kTailsTemplate};
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

}  // namespace duo
