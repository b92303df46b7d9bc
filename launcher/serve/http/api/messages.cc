#include "launcher/serve/http/api/messages.h"

#include "absl/strings/str_cat.h"
#include "launcher/serve/http/api/chat.h"

namespace duo::http {
namespace {

// The conversation: the system's text, then the messages, whose parts a chat knows.
absl::StatusOr<std::vector<int32_t>> ReadConversation(const Service& service, Body& body) {
  const Json* messages = body.Find("messages");
  const Json* system = body.Find("system");
  body.String("model");
  body.NotThere("tools");
  body.NotThere("tool_choice", {Json{{"type", "auto"}}, Json{{"type", "none"}}});
  body.NotThere("thinking", {Json{{"type", "disabled"}}});
  body.NotThere("mcp_servers");
  body.NotThere("container");
  if (messages == nullptr || !messages->is_array()) body.Fail("messages", "messages must be a list");
  if (!body.status().ok()) return body.status();
  Json all = Json::array();
  if (system != nullptr) all.push_back({{"role", "system"}, {"content", *system}});
  for (const Json& message : *messages) all.push_back(message);
  return EncodeChat(service, std::move(all), nullptr, nullptr);
}

struct Form {
  Json base;
  std::vector<std::string> stops;

  Json UsageOf(const Choice& choice) const {
    return {{"input_tokens", choice.prompt_tokens - choice.cached_tokens},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", choice.cached_tokens},
            {"output_tokens", choice.new_tokens}};
  }
  Json Stop(const Choice& choice) const {
    Json json = {{"stop_reason", "end_turn"}, {"stop_sequence", nullptr}};
    if (choice.ended_by == "length") json["stop_reason"] = "max_tokens";
    if (choice.ended_by != "stop") return json;
    json["stop_reason"] = "stop_sequence";
    if (stops.size() == 1) json["stop_sequence"] = stops[0];
    return json;
  }
};

AnswerShape MessageShape(const Form& form) {
  const auto event = [](const std::string& type, Json fields) {
    Json json = {{"type", type}};
    json.update(fields);
    return NamedEvent(type, json);
  };
  const auto begin = [form, event](const Choice& choice) {
    Json message = form.base;
    message["content"] = Json::array();
    message.update(Json{{"stop_reason", nullptr}, {"stop_sequence", nullptr}});
    message["usage"] = form.UsageOf(choice);
    message["usage"]["output_tokens"] = 0;
    return event("message_start", {{"message", message}}) +
           event("content_block_start", {{"index", 0}, {"content_block", {{"type", "text"}, {"text", ""}}}});
  };
  AnswerShape shape;
  shape.piece = [begin, event](const Choice& choice, const AskUpdate& grown, bool first) {
    const std::string begun = first ? begin(choice) : "";
    return begun +
           event("content_block_delta", {{"index", 0}, {"delta", {{"type", "text_delta"}, {"text", grown.text}}}});
  };
  shape.finish = [form, begin, event](const Choice& choice, const AskUpdate&, bool first) {
    const std::string begun = first ? begin(choice) : "";
    return begun + event("content_block_stop", {{"index", 0}}) +
           event("message_delta", {{"delta", form.Stop(choice)}, {"usage", {{"output_tokens", choice.new_tokens}}}}) +
           event("message_stop", Json::object());
  };
  shape.end = [](const std::vector<Choice>&) { return std::string(); };
  shape.error = [event](const ErrorAnswer& error) {
    return event("error", {{"error", {{"type", "api_error"}, {"message", error.message}}}});
  };
  shape.whole = [form](const std::vector<Choice>& choices) {
    const Choice& choice = choices[0];
    Json json = form.base;
    json["content"] = Json::array({{{"type", "text"}, {"text", choice.text}}});
    json.update(form.Stop(choice));
    json["usage"] = form.UsageOf(choice);
    return json;
  };
  return shape;
}

}  // namespace

absl::StatusOr<Prepared> PrepareMessage(Service& service, Body& body) {
  AnswerFields fields = ReadAnswerFields(service, body);
  body.NotThere("n", {1});
  fields.ask.stop = body.Strings("stop_sequences", 16);
  std::erase(fields.ask.stop, "");
  if (!fields.max_tokens.has_value()) body.Fail("max_tokens", "max_tokens is missing");
  absl::StatusOr<std::vector<int32_t>> tokens = ReadConversation(service, body);
  if (!tokens.ok()) return tokens.status();
  absl::StatusOr<AnswerRequest> request = ChatRequest(service, *std::move(tokens), fields);
  if (!request.ok()) return request.status();
  const Form form = {{{"id", NewId("msg_")}, {"type", "message"}, {"role", "assistant"}, {"model", service.model}},
                     fields.ask.stop};
  return Prepared{*std::move(request), MessageShape(form)};
}

absl::StatusOr<Json> CountTokens(Service& service, Body& body) {
  const absl::StatusOr<std::vector<int32_t>> tokens = ReadConversation(service, body);
  if (!tokens.ok()) return tokens.status();
  return Json{{"input_tokens", tokens->size()}};
}

}  // namespace duo::http
