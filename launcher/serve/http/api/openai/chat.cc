#include "launcher/serve/http/api/openai/chat.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "launcher/serve/http/api/answers/logprob_json.h"
#include "launcher/serve/http/api/answers/session_fields.h"
#include "launcher/serve/http/api/answers/tool_fields.h"
#include "runtime/text/chat_frame.h"

namespace duo::http {
namespace {

// What a chat has besides an answer's fields.
struct ChatFields {
  bool logprobs = false;
  AnswerForm form;
};

// One choice's answer as it is told: its parts, and what has been said of them.
struct Telling {
  explicit Telling(const AnswerForm& form) : parts(form) {}
  AnswerParts parts;
  int calls = 0;
};

// A stream's delta of one part.
Json Delta(const AnswerPart& part, Telling& telling) {
  switch (part.kind) {
    case AnswerPart::Kind::kContent:
      return {{"content", part.text}};
    case AnswerPart::Kind::kReasoning:  // under both names that clients know
      return {{"reasoning_content", part.text}, {"reasoning", part.text}};
    case AnswerPart::Kind::kToolCall: {
      Json call = {{"index", telling.calls++}};
      call.update(ToolCallJson(part, NewId("call_")));
      return {{"tool_calls", Json::array({std::move(call)})}};
    }
  }
  return Json::object();
}

Json MessageJson(const Choice& choice, const AnswerForm& form, bool* called) {
  AnswerParts reader(form);
  std::vector<AnswerPart> parts = reader.Push(choice.text);
  for (AnswerPart& part : reader.Flush()) parts.push_back(std::move(part));
  std::string content, reasoning;
  Json calls = Json::array();
  for (const AnswerPart& part : parts) {
    if (part.kind == AnswerPart::Kind::kContent) content += part.text;
    if (part.kind == AnswerPart::Kind::kReasoning) reasoning += part.text;
    if (part.kind == AnswerPart::Kind::kToolCall) calls.push_back(ToolCallJson(part, NewId("call_")));
  }
  *called = !calls.empty();
  Json message = {{"role", "assistant"}, {"content", content}, {"refusal", nullptr}};
  if (*called && content.empty()) message["content"] = nullptr;
  if (!reasoning.empty()) message["reasoning_content"] = message["reasoning"] = reasoning;
  if (*called) message["tool_calls"] = std::move(calls);
  return message;
}

std::string FinishOf(const Choice& choice, bool called) {
  return called && choice.finish == "stop" ? "tool_calls" : choice.finish;
}

AnswerShape ChatShape(const Service& service, const AnswerFields& fields, const ChatFields& own) {
  const Json base = {{"id", NewId("chatcmpl-")},
                     {"object", "chat.completion.chunk"},
                     {"created", UnixTime()},
                     {"model", service.model}};
  const Tokenizer* tokenizer = service.calls.load()->tokenizer;
  const auto chunk = [base, fields](const Choice& choice, Json delta, Json logprobs, Json finish) {
    Json json = base;
    json["choices"] = Json::array({{{"index", choice.index},
                                    {"delta", std::move(delta)},
                                    {"logprobs", std::move(logprobs)},
                                    {"finish_reason", std::move(finish)}}});
    if (fields.continuous_usage) json["usage"] = UsageJson(choice);
    return Event(json);
  };
  const auto tellings = std::make_shared<std::map<int, Telling>>();
  // The role comes with the first token and never again: clients take what comes first for it.
  const auto tell = [chunk, own, tokenizer, tellings](const Choice& choice, const AskUpdate& grown, bool first,
                                                      bool last) {
    Telling& telling = tellings->try_emplace(choice.index, own.form).first->second;
    std::vector<AnswerPart> parts = telling.parts.Push(grown.text);
    if (last) {
      for (AnswerPart& part : telling.parts.Flush()) parts.push_back(std::move(part));
    }
    Json logprobs;
    if (own.logprobs && !grown.scores.empty()) logprobs = ChatLogprobs(*tokenizer, grown.scores);
    std::vector<Json> deltas;
    for (const AnswerPart& part : parts) deltas.push_back(Delta(part, telling));
    if (deltas.empty() && (first || !logprobs.is_null())) deltas.push_back({{"content", ""}});
    std::string events;
    for (size_t i = 0; i < deltas.size(); ++i) {
      Json delta = first && i == 0 ? Json{{"role", "assistant"}} : Json::object();
      delta.update(deltas[i]);
      events += chunk(choice, std::move(delta), std::exchange(logprobs, Json()), nullptr);
    }
    if (last) events += chunk(choice, Json::object(), nullptr, FinishOf(choice, telling.calls > 0));
    return events;
  };
  AnswerShape shape = StreamShape(base, fields);
  shape.piece = [tell](const Choice& c, const AskUpdate& grown, bool first) { return tell(c, grown, first, false); };
  shape.finish = [tell](const Choice& c, const AskUpdate& rest, bool first) { return tell(c, rest, first, true); };
  shape.whole = [base, own, tokenizer](const std::vector<Choice>& choices) {
    Json json = base;
    json["object"] = "chat.completion";
    json["choices"] = Json::array();
    for (const Choice& choice : choices) {
      bool called = false;
      Json message = MessageJson(choice, own.form, &called);
      Json logprobs;
      if (own.logprobs) logprobs = ChatLogprobs(*tokenizer, choice.scores);
      json["choices"].push_back({{"index", choice.index},
                                 {"message", std::move(message)},
                                 {"logprobs", std::move(logprobs)},
                                 {"finish_reason", FinishOf(choice, called)}});
    }
    AddUsage(choices, &json);
    return json;
  };
  return shape;
}

ChatFields ReadChatFields(Body& body, AnswerFields& fields, const ToolFields& tools) {
  ChatFields own;
  own.logprobs = body.Bool("logprobs", false);
  const std::optional<int64_t> best = body.Int("top_logprobs", 0, kMostBest);
  if (own.logprobs) fields.ask.rules.scores = static_cast<int32_t>(best.value_or(0));
  if (best.value_or(0) > 0 && !own.logprobs) body.Fail("top_logprobs", "top_logprobs needs \"logprobs\": true");
  AdoptTools(tools, body, fields.ask.guide, own.form);
  return own;
}

// A message as templates know it: without OpenAI's newer name of the system's role, and calls with their arguments as
// an object, where clients send it as a text that templates would quote once more.
void AsTemplatesHaveIt(Json& message) {
  if (!message.is_object()) return;
  if (message.contains("role") && message["role"] == "developer") message["role"] = "system";
  if (!message.contains("tool_calls") || !message["tool_calls"].is_array()) return;
  for (Json& call : message["tool_calls"]) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
    const auto arguments = call["function"].find("arguments");
    if (arguments == call["function"].end() || !arguments->is_string()) continue;
    const absl::StatusOr<Json> object = ParseBody(arguments->get_ref<const std::string&>());
    if (object.ok()) *arguments = *object;
  }
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeChat(const Service& service, Json messages, const Json& tools,
                                                const Json* arguments, bool add_generation_prompt) {
  if (!service.chat.ok()) {
    return FieldError("messages", absl::StrCat("this model has no chat template: ", service.chat.status().message(),
                                               "; /v1/completions takes plain prompts"));
  }
  Conversation conversation;
  conversation.messages = std::move(messages);
  for (Json& message : conversation.messages) AsTemplatesHaveIt(message);
  conversation.tools = tools;
  if (absl::Status s = CheckConversation(&conversation, "messages"); !s.ok()) {
    return FieldError("messages", s.message());
  }
  ChatTemplate chat = *service.chat;
  if (arguments != nullptr) {
    for (const auto& [name, value] : arguments->items()) chat.SetArgument(name, value);
  }
  const absl::StatusOr<std::vector<TextSegment>> segments = chat.Render(conversation, add_generation_prompt);
  if (!segments.ok()) return FieldError("messages", segments.status().message());
  return service.calls.load()->tokenizer->EncodeSegments(*segments);
}

absl::StatusOr<AnswerRequest> ChatRequest(const Service& service, std::vector<int32_t> tokens,
                                          const AnswerFields& fields) {
  if (absl::Status s = NoSessionHere(fields); !s.ok()) return s;
  const absl::StatusOr<int64_t> most = NewTokens(service, static_cast<int64_t>(tokens.size()), fields, 0, "messages");
  if (!most.ok()) return most.status();
  AnswerRequest request;
  request.ask = fields.ask;
  request.ask.max_new_tokens = *most;
  if (!request.ask.ignore_end_tokens) {
    request.ask.end_tokens = service.end_of_turn;
  }
  request.stream = fields.stream;
  request.prompts.push_back(std::move(tokens));
  return request;
}

namespace {

// What of a chat belongs to the conversation's beginning, which a session has behind it.
absl::Status CheckTurn(const ToolFields& tools, const Json* arguments, bool generation) {
  if (!tools.tools.empty()) return FieldError("tools", "a session's conversation has no tools");
  if (arguments != nullptr) {
    return FieldError("chat_template_kwargs", "a session's conversation goes on as it began, without other arguments");
  }
  if (!generation) return FieldError("add_generation_prompt", "a turn on a session is answered");
  return absl::OkStatus();
}

// Whether the template begins an answer with its thoughts.
bool BeginsThinking(const Service& service) {
  if (!service.chat.ok()) return false;
  const absl::StatusOr<ChatFrame> frame = FrameOf(*service.chat, "");
  const Tokenizer& tokenizer = *service.calls.load()->tokenizer;
  const auto tokens = frame.ok() ? tokenizer.EncodeSegments(frame->after) : frame.status();
  return tokens.ok() && EndsThinking(tokenizer, *tokens);
}

}  // namespace

absl::StatusOr<Prepared> PrepareChat(Service& service, Body& body) {
  AnswerFields fields = ReadAnswerFields(service, body);
  const Json *offered = body.Find("tools"), *choice = body.Find("tool_choice");
  const ToolFields tools =
      ReadToolFields(service, body, offered == nullptr ? Json() : *offered, choice == nullptr ? Json() : *choice);
  ChatFields own = ReadChatFields(body, fields, tools);
  body.NotThere("functions");
  body.NotThere("function_call", {"none", "auto"});
  body.NotThere("modalities", {Json::array({"text"})});
  body.NotThere("audio");
  body.NotThere("web_search_options");
  body.NotThere("chat_template");
  body.NotThere("continue_final_message");
  body.NotThere("echo");
  const bool generation = body.Bool("add_generation_prompt", true);
  const Json* arguments = body.Find("chat_template_kwargs");
  if (arguments != nullptr && !arguments->is_object()) {
    body.Fail("chat_template_kwargs", "chat_template_kwargs must be an object");
  }
  const Json* messages = body.Find("messages");
  if (messages == nullptr) body.Fail("messages", "messages is missing");
  if (!body.status().ok()) return body.status();
  if (!fields.ask.session_id.empty()) {
    if (absl::Status s = CheckTurn(tools, arguments, generation); !s.ok()) return s;
    absl::StatusOr<AnswerRequest> turn = TurnOnSession(service, fields, *messages);
    if (!turn.ok()) return turn.status();
    own.form.begins_thinking = own.form.reasoning && BeginsThinking(service);
    return Prepared{*std::move(turn), ChatShape(service, fields, own)};
  }
  absl::StatusOr<std::vector<int32_t>> tokens = EncodeChat(service, *messages, tools.tools, arguments, generation);
  if (!tokens.ok()) return tokens.status();
  absl::StatusOr<AnswerRequest> request = ChatRequest(service, *std::move(tokens), fields);
  if (!request.ok()) return request.status();
  own.form.begins_thinking = own.form.reasoning && EndsThinking(*service.calls.load()->tokenizer, request->prompts[0]);
  request->n = fields.n;
  return Prepared{*std::move(request), ChatShape(service, fields, own)};
}

}  // namespace duo::http
