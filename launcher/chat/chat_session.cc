#include "launcher/chat/chat_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/text_stream.h"

namespace duo {

absl::Status ChatSession::Open(int64_t max_tokens) {
  absl::StatusOr<SessionId> session = engine_.CreateSession(max_tokens, 0);
  if (!session.ok()) return session.status();
  session_ = *session;
  max_tokens_ = max_tokens;
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ChatSession::tokens() const {
  const absl::StatusOr<SessionInfo> info = engine_.Get(session_);
  if (!info.ok()) return info.status();
  return info->tokens;
}

absl::StatusOr<bool> ChatSession::Undo() {
  if (turns_.size() < 2) return false;
  turns_.resize(turns_.size() - 2);
  return true;
}

absl::StatusOr<std::vector<int32_t>> ChatSession::Encoded() const {
  std::vector<Message> messages;
  if (!system_.empty()) messages.push_back({"system", system_});
  messages.insert(messages.end(), turns_.begin(), turns_.end());
  const absl::StatusOr<std::vector<TextSegment>> text = chat_.Render(messages, /*add_generation_prompt=*/true);
  if (!text.ok()) return text.status();
  return tokenizer_.EncodeSegments(*text);
}

absl::StatusOr<std::vector<int32_t>> ChatSession::Rest(const std::vector<int32_t>& tokens) {
  const absl::StatusOr<std::vector<int32_t>> held = engine_.Tokens(session_);
  if (!held.ok()) return held.status();
  const auto [differs, unused] = std::mismatch(tokens.begin(), tokens.end(), held->begin(), held->end());
  // At least one is asked again: an answer follows a token that is fed.
  const auto from = std::min(differs, tokens.end() - 1);
  const int64_t common = from - tokens.begin();
  if (common < static_cast<int64_t>(held->size())) {
    if (absl::Status s = engine_.Rewind(session_, common); !s.ok()) return s;
  }
  return std::vector<int32_t>(from, tokens.end());
}

absl::StatusOr<ChatAnswer> ChatSession::Say(const std::string& text, const ChatListener& listener) {
  turns_.push_back({"user", text});
  Written answer;
  absl::StatusOr<std::vector<int32_t>> tokens = Encoded();
  absl::Status status = tokens.status();
  if (status.ok() && static_cast<int64_t>(tokens->size()) >= max_tokens_) {
    status = absl::ResourceExhaustedError(absl::StrCat("the conversation would have ", tokens->size(), " tokens of ",
                                                       max_tokens_, "; /undo or /new makes room, --max-tokens more"));
  }
  if (status.ok()) {
    const int64_t all = static_cast<int64_t>(tokens->size());
    tokens = Rest(*tokens);
    status = tokens.status();
    if (status.ok()) answer.history_tokens = all - static_cast<int64_t>(tokens->size());
  }
  if (status.ok()) status = Answer(*std::move(tokens), listener, answer);
  if (!status.ok()) {
    turns_.pop_back();
    return status;
  }
  turns_.push_back({"assistant", answer.text});
  return ChatAnswer{answer.stopped};
}

absl::Status ChatSession::Answer(std::vector<int32_t> tokens, const ChatListener& listener, Written& answer) {
  GenerateParams params;
  const int64_t room = max_tokens_ - answer.history_tokens - static_cast<int64_t>(tokens.size());
  params.max_new_tokens = std::min(options_.max_new_tokens, room);
  params.temperature = options_.temperature;
  params.top_p = options_.top_p;
  params.seed = options_.seed + turns_.size();
  params.end_tokens = options_.end_tokens;
  params.keep = true;
  TextStream stream(tokenizer_, {});
  bool done = false;
  const auto show = [&](const std::string& text) {
    answer.text += text;
    if (!text.empty()) listener.on_text(text);
  };
  RequestEvents events;
  events.on_progress = listener.on_read;
  events.on_token = [&](int32_t token) {
    show(stream.Push(token));
    answer.stopped = listener.stopped();
    return !answer.stopped;
  };
  events.on_done = [&](const RequestResult& result) {
    answer.result = result;
    done = true;
  };
  const absl::StatusOr<RequestId> request = engine_.Ask(session_, std::move(tokens), params, std::move(events));
  if (!request.ok()) return request.status();
  while (engine_.Step()) {
    if (!done && !answer.stopped && listener.stopped()) engine_.Cancel(*request).IgnoreError();  // while it reads
  }
  if (!done) return absl::ResourceExhaustedError("the answer needs more KV memory than this run has");
  show(stream.Flush());
  return answer.result.status;
}

}  // namespace duo
