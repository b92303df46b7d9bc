#include "runtime/text/session_text.h"

#include <algorithm>
#include <utility>

#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

void AddSegments(const std::vector<TextSegment>& segments, SessionText* to) {
  for (const TextSegment& segment : segments) AddText(segment.text, segment.parse_special, to);
}

absl::Status BeginTurn(const ChatFrame& frame, SessionText* to) {
  if (to->in_turn) return absl::OkStatus();
  if (to->answered && !frame.goes_on.ok()) return frame.goes_on;
  AddSegments(to->answered ? frame.between : frame.before, to);
  to->in_turn = true;
  to->said = false;
  to->newlines = 0;
  return absl::OkStatus();
}

// What a user says in a turn that has begun.
void AddSaid(std::string_view text, bool special, SessionText* to) {
  if (text.empty()) return;
  AddText(text, special, to);
  const size_t last = text.find_last_not_of('\n');
  const size_t ending = last == text.npos ? text.size() : text.size() - last - 1;
  const size_t before = last == text.npos ? static_cast<size_t>(to->newlines) : 0;
  to->newlines = static_cast<int>(std::min<size_t>(2, before + ending));
  to->said = true;
}

// What is left of segments behind their first `bytes`.
std::vector<TextSegment> Behind(std::vector<TextSegment> segments, size_t bytes) {
  size_t gone = 0;
  while (gone < segments.size() && bytes >= segments[gone].text.size()) bytes -= segments[gone++].text.size();
  segments.erase(segments.begin(), segments.begin() + static_cast<int64_t>(gone));
  if (bytes > 0) segments.front().text.erase(0, bytes);
  return segments;
}

}  // namespace

int64_t SessionText::tail_bytes() const {
  int64_t bytes = 0;
  for (const TextSegment& segment : tail) bytes += static_cast<int64_t>(segment.text.size());
  return bytes + static_cast<int64_t>(opening.size());
}

std::string SessionText::tail_text() const {
  std::string text;
  for (const TextSegment& segment : tail) text += segment.text;
  return text + opening;
}

void AddText(std::string_view text, bool special, SessionText* to) {
  if (!to->tail.empty() && to->tail.back().parse_special != special) {
    // A character that the last segment has begun ends there, and not in two segments.
    std::string& last = to->tail.back().text;
    while (!text.empty() && (static_cast<uint8_t>(text[0]) & 0xC0) == 0x80 && CertainUtf8Prefix(last) < last.size()) {
      last += text[0];
      text.remove_prefix(1);
    }
  }
  if (text.empty()) return;
  if (to->tail.empty() || to->tail.back().parse_special != special) to->tail.push_back({"", special});
  to->tail.back().text += text;
}

absl::Status AddDocument(const ChatFrame* frame, std::string_view text, bool special, SessionText* to) {
  if (!to->chat) {
    AddText(text, special, to);
    return absl::OkStatus();
  }
  if (absl::Status begun = BeginTurn(*frame, to); !begun.ok()) return begun;
  if (!frame->trims || to->said) {
    AddSaid(text, special, to);
    return absl::OkStatus();
  }
  const std::string all = std::exchange(to->opening, "") + std::string(text);
  const std::string_view said = TrimmedText(all, false);
  if (CertainUtf8Prefix(said) > 0) {
    AddSaid(said, special, to);
  } else {
    to->opening = said;
  }
  return absl::OkStatus();
}

absl::Status AddQuestion(const ChatFrame* frame, std::string_view text, bool special, SessionText* to, bool as_is) {
  if (!to->chat) {
    AddText(text, special, to);
    return absl::OkStatus();
  }
  const std::string repaired = ReplaceInvalidUtf8(text);  // a look for white space at its end takes it for valid
  const bool trims = !as_is || frame->trims;
  const std::string_view question = trims ? TrimmedText(repaired) : std::string_view(repaired);
  if (question.empty()) return absl::InvalidArgumentError("the question is empty");
  if (absl::Status begun = BeginTurn(*frame, to); !begun.ok()) return begun;
  AddSaid(std::exchange(to->opening, ""), special, to);
  if (to->said) AddText(std::string_view("\n\n").substr(static_cast<size_t>(to->newlines)), special, to);
  AddText(question, special, to);
  to->in_turn = false;
  return absl::OkStatus();
}

void BeginAnswer(const ChatFrame& frame, SessionText* to) {
  if (to->chat) AddSegments(frame.after, to);
}

std::optional<int64_t> TakeTurn(const ChatTemplate& chat, SessionText* text) {
  if (!text->turn.has_value()) return std::nullopt;
  const absl::StatusOr<std::vector<TextSegment>> past = PastAnswer(chat, text->system, text->turn->answer);
  if (!past.ok()) return std::nullopt;
  const PastTurn turn = *std::exchange(text->turn, std::nullopt);
  text->tail.clear();
  AddSegments(turn.said, text);
  AddSegments(*past, text);
  text->continues = turn.continues;
  text->in_turn = true;  // the next user's
  text->said = false;
  text->newlines = 0;
  return turn.at;
}

absl::StatusOr<PastTurn> TurnOf(const Tokenizer& tokenizer, const SessionText& text) {
  const absl::StatusOr<StableTokens> stable = tokenizer.EncodeStable(text.tail, text.continues);
  if (!stable.ok()) return stable.status();
  PastTurn turn;
  turn.at = static_cast<int64_t>(stable->ids.size());
  turn.continues = text.continues || stable->bytes > 0;
  turn.said = Behind(text.tail, stable->bytes);
  return turn;
}

absl::StatusOr<TextRead> ReadStable(const Tokenizer& tokenizer, SessionText text) {
  absl::StatusOr<StableTokens> stable = tokenizer.EncodeStable(text.tail, text.continues);
  if (!stable.ok()) return stable.status();
  TextRead read;
  read.tokens = std::move(stable->ids);
  read.rest = std::move(text);
  if (stable->bytes > 0) {
    read.rest.tail = Behind(std::move(read.rest.tail), stable->bytes);
    read.rest.continues = true;
  }
  const absl::StatusOr<std::vector<int32_t>> rest = ReadAll(tokenizer, read.rest);
  if (!rest.ok()) return rest.status();
  read.rest_tokens = static_cast<int64_t>(rest->size());
  return read;
}

absl::StatusOr<std::vector<int32_t>> ReadAll(const Tokenizer& tokenizer, const SessionText& text) {
  if (!text.opening.empty()) {
    SessionText all = text;
    AddText(std::exchange(all.opening, ""), false, &all);
    return ReadAll(tokenizer, all);
  }
  if (text.tail.empty()) return std::vector<int32_t>();
  return tokenizer.EncodeSegments(text.tail, /*add_special_tokens=*/false, text.continues);
}

SessionText BehindAnswer(const SessionText& before) {
  SessionText behind;
  behind.continues = true;
  behind.chat = before.chat;
  behind.system = before.system;
  behind.answered = before.chat;
  return behind;
}

SessionText BehindTokens(const SessionText& before, bool answer) {
  SessionText behind;
  behind.chat = before.chat;
  behind.system = before.system;
  behind.answered = before.chat && answer;
  behind.in_turn = behind.said = before.chat && !answer;
  return behind;
}

SessionText BehindCut(const SessionText& before, int64_t tokens) {
  SessionText behind = BehindTokens(before, false);
  if (tokens == 0) behind.in_turn = behind.said = false;
  return behind;
}

}  // namespace duo
