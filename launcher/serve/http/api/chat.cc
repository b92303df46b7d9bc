#include "launcher/serve/http/api/chat.h"

#include "absl/strings/str_cat.h"

namespace duo::http {
namespace {

AnswerShape ChatShape(const Service& service, const AnswerFields& fields) {
  const Json base = {{"id", NewId("chatcmpl-")},
                     {"object", "chat.completion.chunk"},
                     {"created", UnixTime()},
                     {"model", service.model}};
  const auto chunk = [base, fields](const Choice& choice, Json delta, bool finished) {
    Json json = base;
    Json one = {
        {"index", choice.index}, {"delta", std::move(delta)}, {"logprobs", nullptr}, {"finish_reason", nullptr}};
    if (finished) one["finish_reason"] = choice.finish;
    json["choices"] = Json::array({std::move(one)});
    if (fields.continuous_usage) json["usage"] = UsageJson(choice);
    return Event(json);
  };
  AnswerShape shape;
  // The role comes with the first token and never again: clients take what comes first for it.
  shape.piece = [chunk](const Choice& choice, const AskUpdate& grown, bool first) {
    Json delta = first ? Json{{"role", "assistant"}, {"content", grown.text}} : Json{{"content", grown.text}};
    return chunk(choice, std::move(delta), false);
  };
  shape.finish = [chunk](const Choice& choice, const AskUpdate&, bool first) {
    const std::string begun = first ? chunk(choice, {{"role", "assistant"}, {"content", ""}}, false) : "";
    return begun + chunk(choice, Json::object(), true);
  };
  shape.end = [base, fields](const std::vector<Choice>& choices) {
    if (!fields.include_usage) return std::string(kDone);
    Json json = base;
    json["choices"] = Json::array();
    json["usage"] = UsageJson(UsageOf(choices));
    return Event(json) + kDone;
  };
  shape.error = [](const ErrorAnswer& error) { return absl::StrCat("data: ", ErrorBody(error), "\n\n", kDone); };
  shape.whole = [base](const std::vector<Choice>& choices) {
    Json json = base;
    json["object"] = "chat.completion";
    json["choices"] = Json::array();
    for (const Choice& choice : choices) {
      json["choices"].push_back({{"index", choice.index},
                                 {"message", {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}}},
                                 {"logprobs", nullptr},
                                 {"finish_reason", choice.finish}});
    }
    json["usage"] = UsageJson(UsageOf(choices));
    return json;
  };
  return shape;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeChat(const Service& service, Json messages, const Json* tools,
                                                const Json* arguments, bool add_generation_prompt) {
  if (!service.chat.ok()) {
    return FieldError("messages", absl::StrCat("this model has no chat template: ", service.chat.status().message(),
                                               "; /v1/completions takes plain prompts"));
  }
  Conversation conversation;
  conversation.messages = std::move(messages);
  for (Json& message : conversation.messages) {  // OpenAI's newer name of it, which templates do not know
    if (message.is_object() && message.contains("role") && message["role"] == "developer") message["role"] = "system";
  }
  if (tools != nullptr) conversation.tools = *tools;
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

absl::StatusOr<Prepared> PrepareChat(Service& service, Body& body) {
  const AnswerFields fields = ReadAnswerFields(service, body);
  body.NotThere("logprobs");
  body.NotThere("tools");
  body.NotThere("tool_choice", {"none", "auto"});
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
  absl::StatusOr<std::vector<int32_t>> tokens = EncodeChat(service, *messages, nullptr, arguments, generation);
  if (!tokens.ok()) return tokens.status();
  absl::StatusOr<AnswerRequest> request = ChatRequest(service, *std::move(tokens), fields);
  if (!request.ok()) return request.status();
  return Prepared{*std::move(request), ChatShape(service, fields)};
}

}  // namespace duo::http
