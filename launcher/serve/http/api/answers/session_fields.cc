#include "launcher/serve/http/api/answers/session_fields.h"

#include "absl/strings/str_cat.h"

namespace duo::http {
namespace {

absl::StatusOr<AnswerRequest> OnSession(const Service& service, const AnswerFields& fields, int64_t fallback) {
  if (fields.n > 1) return FieldError("n", "answers on a session come one at a time: n must be 1 with duo.session_id");
  if (absl::Status s = CheckNewTokens(service, fields.max_tokens.value_or(0)); !s.ok()) return s;
  AnswerRequest request;
  request.ask = fields.ask;
  request.ask.alone = false;
  request.ask.max_new_tokens = fields.max_tokens.value_or(fallback);
  request.stream = fields.stream;
  request.on_session = true;
  request.prompts.emplace_back();
  return request;
}

}  // namespace

void ReadSession(Body& body, AnswerFields& fields) {
  const Json* duo = body.Find("duo");
  if (duo == nullptr) return;
  if (!duo->is_object()) return body.Fail("duo", "duo must be an object with session_id and keep");
  Body inner(*duo);
  const std::optional<std::string> id = inner.String("session_id");
  fields.ask.keep = inner.Bool("keep", false);
  if (!inner.status().ok()) return body.Fail("duo", inner.status().message());
  if (!inner.Unknown().empty()) {
    return body.Fail("duo", absl::StrCat("duo has session_id and keep, found ", inner.Unknown()[0]));
  }
  if (!id.has_value() || id->empty()) return body.Fail("duo", "duo needs a session_id");
  fields.ask.session_id = *id;
}

absl::Status NoSessionHere(const AnswerFields& fields) {
  if (fields.ask.session_id.empty()) return absl::OkStatus();
  return FieldError("duo", "a session is asked by /v1/completions, /v1/chat/completions or /duo/v1/sessions/ID/ask");
}

absl::StatusOr<AnswerRequest> PromptOnSession(const Service& service, const AnswerFields& fields, const Json* prompt,
                                              int64_t fallback) {
  absl::StatusOr<AnswerRequest> request = OnSession(service, fields, fallback);
  if (!request.ok()) return request;
  const std::optional<std::vector<int32_t>> tokens = prompt == nullptr ? std::nullopt : TokensOf(*prompt);
  if (tokens.has_value() && !tokens->empty()) {
    if (absl::Status s = service.calls.load()->CheckTokens(*tokens); !s.ok()) return FieldError("prompt", s.message());
    request->prompts[0] = *tokens;
  } else if (prompt != nullptr && prompt->is_string() && !prompt->get_ref<const std::string&>().empty()) {
    request->ask.text = prompt->get<std::string>();  // its tokens are made where it goes on with the session's text
  } else {
    return FieldError("prompt", "with duo.session_id the prompt is one question: a text or a list of token ids");
  }
  return request;
}

absl::StatusOr<AnswerRequest> TurnOnSession(const Service& service, const AnswerFields& fields, Json messages) {
  Conversation conversation;
  conversation.messages = std::move(messages);
  if (absl::Status s = CheckConversation(&conversation, "messages"); !s.ok()) {
    return FieldError("messages", s.message());
  }
  const Json& all = conversation.messages;
  if (all.size() != 1 || all[0].value("role", "") != "user" || !all[0].contains("content") ||
      !all[0]["content"].is_string()) {
    return FieldError("messages",
                      "with duo.session_id the messages are the user's next one alone: what was said before is in the "
                      "session");
  }
  absl::StatusOr<AnswerRequest> request = OnSession(service, fields, service.limits.new_tokens);
  if (!request.ok()) return request;
  request->ask.text = all[0]["content"].get<std::string>();
  if (request->ask.text.empty()) return FieldError("messages", "the message has no text");
  request->ask.turn = true;
  request->ask.fits = !fields.max_tokens.has_value();
  return request;
}

}  // namespace duo::http
