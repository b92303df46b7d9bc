#include "runtime/text/chat_template.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

using Segments = std::vector<TextSegment>;

const char* Name(ChatRole role) {
  switch (role) {
    case ChatRole::kSystem:
      return "system";
    case ChatRole::kUser:
      return "user";
    case ChatRole::kAssistant:
      return "assistant";
  }
  return "";
}

void Template(std::string text, Segments* out) { out->push_back({std::move(text), true}); }
void Content(std::string text, Segments* out) { out->push_back({std::move(text), false}); }

// What Python's str.strip() and Jinja's trim remove: white space and the four ASCII separators.
bool IsStripped(char32_t c) { return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

std::string_view TrimLeft(std::string_view text) {
  while (!text.empty()) {
    size_t next = 0;
    if (!IsStripped(NextCodePoint(text, &next))) break;
    text.remove_prefix(next);
  }
  return text;
}

std::string_view TrimRight(std::string_view text) {
  while (!text.empty()) {
    size_t previous = text.size();
    if (!IsStripped(PreviousCodePoint(text, &previous))) break;
    text = text.substr(0, previous);
  }
  return text;
}

std::string Trim(std::string_view text) { return std::string(TrimRight(TrimLeft(text))); }

// The system text, if the conversation begins with one, and the other turns, which must alternate.
struct Turns {
  const Message* system = nullptr;
  std::span<const Message> rest;
};

absl::StatusOr<Turns> Alternating(std::span<const Message> messages) {
  Turns turns{nullptr, messages};
  if (messages[0].role == ChatRole::kSystem) {
    turns.system = &messages[0];
    turns.rest = messages.subspan(1);
  }
  for (size_t i = 0; i < turns.rest.size(); ++i) {
    const ChatRole expected = i % 2 == 0 ? ChatRole::kUser : ChatRole::kAssistant;
    if (turns.rest[i].role != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat("this model's turns must alternate user and assistant after an optional system turn: turn ",
                       i + 1, " was expected from ", Name(expected), ", found ", Name(turns.rest[i].role)));
    }
  }
  return turns;
}

absl::StatusOr<Segments> RenderLlama2(const ChatTemplate& chat, std::span<const Message> messages) {
  const absl::StatusOr<Turns> turns = Alternating(messages);
  if (!turns.ok()) return turns.status();
  Segments out;
  for (size_t i = 0; i < turns->rest.size(); ++i) {
    const std::string& content = turns->rest[i].content;
    if (turns->rest[i].role == ChatRole::kAssistant) {
      Template(" ", &out);
      Content(Trim(content), &out);
      Template(absl::StrCat(" ", chat.eos), &out);
      continue;
    }
    Template(absl::StrCat(chat.bos, "[INST] "), &out);
    if (i == 0 && turns->system != nullptr) {
      // The turn is trimmed as a whole: an empty question leaves no line ends behind the system text.
      const std::string question(TrimRight(content));
      Template("<<SYS>>\n", &out);
      Content(turns->system->content, &out);
      Template(question.empty() ? "\n<</SYS>>" : "\n<</SYS>>\n\n", &out);
      Content(question, &out);
    } else {
      Content(Trim(content), &out);
    }
    Template(" [/INST]", &out);
  }
  return out;
}

absl::StatusOr<Segments> RenderMistral(const ChatTemplate& chat, std::span<const Message> messages) {
  const absl::StatusOr<Turns> turns = Alternating(messages);
  if (!turns.ok()) return turns.status();
  if (turns->system != nullptr && chat.system_place == ChatTemplate::SystemPlace::kNone) {
    return absl::InvalidArgumentError("this model's chat template takes no system turn");
  }
  Segments out;
  Template(chat.bos, &out);
  const size_t system_at = chat.system_place == ChatTemplate::SystemPlace::kFirstUser ? 0 : turns->rest.size() - 1;
  for (size_t i = 0; i < turns->rest.size(); ++i) {
    const Message& message = turns->rest[i];
    if (message.role == ChatRole::kAssistant) {
      Template(chat.assistant_open, &out);
      Content(chat.trims_answers ? Trim(message.content) : message.content, &out);
      Template(chat.assistant_close, &out);
      continue;
    }
    Template(chat.user_open, &out);
    if (turns->system != nullptr && i == system_at) {
      Content(turns->system->content, &out);
      Template("\n\n", &out);
    }
    Content(message.content, &out);
    Template(chat.user_close, &out);
  }
  return out;
}

Segments RenderLlama3(const ChatTemplate& chat, std::span<const Message> messages, bool add_generation_prompt) {
  Segments out;
  Template(chat.bos, &out);
  const auto turn = [&](const char* role, const std::string& before, std::string_view content) {
    Template(absl::StrCat("<|start_header_id|>", role, "<|end_header_id|>\n\n", before), &out);
    Content(Trim(content), &out);
    Template("<|eot_id|>", &out);
  };
  if (!chat.date.empty()) {
    const bool has_system = messages[0].role == ChatRole::kSystem;
    turn("system", absl::StrCat("Cutting Knowledge Date: December 2023\nToday Date: ", chat.date, "\n\n"),
         has_system ? messages[0].content : std::string());
    if (has_system) messages = messages.subspan(1);
  }
  for (const Message& message : messages) turn(Name(message.role), "", message.content);
  if (add_generation_prompt) Template("<|start_header_id|>assistant<|end_header_id|>\n\n", &out);
  return out;
}

std::string StripLineEnds(std::string_view text, bool left, bool right) {
  while (left && text.starts_with('\n')) text.remove_prefix(1);
  while (right && text.ends_with('\n')) text.remove_suffix(1);
  return std::string(text);
}

// Qwen3: an answer to an earlier question is written without its reasoning; one after the last question keeps it.
void RenderThinkingAnswer(const std::string& content, bool after_last_question, bool last, Segments* out) {
  constexpr std::string_view kOpen = "<think>", kClose = "</think>";
  std::string reasoning, answer = content;
  if (const size_t close = content.find(kClose); close != std::string::npos) {
    const std::string before = StripLineEnds(content.substr(0, close), false, true);
    const size_t open = before.rfind(kOpen);
    reasoning = StripLineEnds(open == std::string::npos ? before : before.substr(open + kOpen.size()), true, false);
    answer = StripLineEnds(content.substr(content.rfind(kClose) + kClose.size()), true, false);
  }
  if (after_last_question && (last || !reasoning.empty())) {
    Template("<think>\n", out);
    Content(StripLineEnds(reasoning, true, true), out);
    Template("\n</think>\n\n", out);
    answer = StripLineEnds(answer, true, false);
  }
  Content(std::move(answer), out);
}

Segments RenderChatMl(const ChatTemplate& chat, std::span<const Message> messages, bool add_generation_prompt) {
  Segments out;
  if (messages[0].role != ChatRole::kSystem && !chat.default_system.empty()) {
    Template(absl::StrCat("<|im_start|>system\n", chat.default_system, "<|im_end|>\n"), &out);
  }
  size_t last_question = messages.size() - 1;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& text = messages[i].content;
    const bool tool_response = text.starts_with("<tool_response>") && text.ends_with("</tool_response>");
    if (messages[i].role == ChatRole::kUser && !tool_response) last_question = i;
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    Template(absl::StrCat("<|im_start|>", Name(messages[i].role), "\n"), &out);
    if (chat.drops_thinking && messages[i].role == ChatRole::kAssistant) {
      RenderThinkingAnswer(messages[i].content, i > last_question, i + 1 == messages.size(), &out);
    } else {
      Content(messages[i].content, &out);
    }
    Template("<|im_end|>\n", &out);
  }
  if (add_generation_prompt)
    Template(absl::StrCat("<|im_start|>assistant\n", chat.opens_thinking ? "<think>\n" : ""), &out);
  return out;
}

}  // namespace

absl::StatusOr<ChatRole> ParseChatRole(std::string_view name) {
  for (const ChatRole role : {ChatRole::kSystem, ChatRole::kUser, ChatRole::kAssistant}) {
    if (name == Name(role)) return role;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("expected the role system, user or assistant, found \"", std::string(name), "\""));
}

absl::StatusOr<Segments> ChatTemplate::Render(std::span<const Message> messages, bool add_generation_prompt) const {
  if (messages.empty()) return absl::InvalidArgumentError("a conversation needs at least one message");
  // White space is trimmed by characters, so bytes that are no characters are replaced first, as the tokenizer would.
  std::vector<Message> repaired(messages.begin(), messages.end());
  for (Message& message : repaired) message.content = ReplaceInvalidUtf8(message.content);
  switch (family) {
    case ChatFamily::kLlama2:
      return RenderLlama2(*this, repaired);
    case ChatFamily::kMistral:
      return RenderMistral(*this, repaired);
    case ChatFamily::kLlama3:
      return RenderLlama3(*this, repaired, add_generation_prompt);
    case ChatFamily::kChatMl:
      return RenderChatMl(*this, repaired, add_generation_prompt);
  }
  return absl::InternalError("unknown chat family");
}

std::string ChatTemplate::EndOfTurn() const {
  if (family == ChatFamily::kChatMl) return "<|im_end|>";
  if (family == ChatFamily::kLlama3) return "<|eot_id|>";
  return eos;
}

absl::StatusOr<DocumentTurns> RenderQuestions(const ChatTemplate& chat, const std::string& system,
                                              const std::string& document, std::span<const std::string> questions) {
  // The seam lies after the blank line: there a tokenizer would cut anyway.
  const char* gap = document.ends_with("\n\n") ? "" : document.ends_with('\n') ? "\n" : "\n\n";
  DocumentTurns turns;
  for (const std::string& asked : questions) {
    const std::string question = Trim(ReplaceInvalidUtf8(asked));
    if (question.empty()) return absl::InvalidArgumentError("the question is empty");
    std::vector<Message> messages;
    if (!system.empty()) messages.push_back({ChatRole::kSystem, system});
    messages.push_back({ChatRole::kUser, absl::StrCat(document, gap, question)});
    absl::StatusOr<Segments> rendered = chat.Render(messages, true);
    if (!rendered.ok()) return rendered.status();
    // The last segment that is not the template's is the turn; templates trim it, but the question at its end stays.
    auto turn =
        std::find_if(rendered->rbegin(), rendered->rend(), [](const TextSegment& s) { return !s.parse_special; });
    DUO_CHECK(turn != rendered->rend() && turn->text.ends_with(question));
    TextSegment& content = *turn;
    const auto at = turn.base() - rendered->begin();  // the segment after the turn
    content.text.resize(content.text.size() - question.size());
    if (turns.questions.empty()) turns.document.assign(rendered->begin(), rendered->begin() + at);
    std::vector<TextSegment>& rest = turns.questions.emplace_back();
    rest.push_back({question, false});
    rest.insert(rest.end(), rendered->begin() + at, rendered->end());
  }
  return turns;
}

}  // namespace duo
