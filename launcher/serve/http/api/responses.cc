#include "launcher/serve/http/api/responses.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "launcher/serve/http/api/chat.h"

namespace duo::http {
namespace {

// The parts of an item's content that are texts, as a chat has them.
absl::StatusOr<Json> ContentOf(const Json& item) {
  const auto content = item.find("content");
  if (content == item.end() || content->is_string()) return content == item.end() ? Json("") : *content;
  if (!content->is_array()) return FieldError("input", "an item's content must be a text or a list of parts");
  std::string text;
  for (const Json& part : *content) {
    const std::string type = part.is_object() && part.contains("type") && part["type"].is_string() ? part["type"] : "";
    const bool is_text = type == "input_text" || type == "output_text" || type == "text";
    if (!is_text || !part.contains("text") || !part["text"].is_string()) {
      return FieldError("input", absl::StrCat("a part of an item's content must be a text, found ", Shown(part)));
    }
    text += part["text"].get_ref<const std::string&>();
  }
  return Json(text);
}

absl::StatusOr<Json> MessagesOf(Body& body) {
  Json messages = Json::array();
  if (const std::optional<std::string> instructions = body.String("instructions")) {
    messages.push_back({{"role", "system"}, {"content", *instructions}});
  }
  const Json* input = body.Find("input");
  if (!body.status().ok()) return body.status();
  if (input == nullptr) return FieldError("input", "input is missing");
  if (input->is_string()) {
    messages.push_back({{"role", "user"}, {"content", *input}});
    return messages;
  }
  if (!input->is_array()) return FieldError("input", "input must be a string or a list of items");
  for (const Json& item : *input) {
    const bool typed = item.is_object() && item.contains("type") && item["type"] != "message";
    if (!item.is_object() || typed || !item.contains("role") || !item["role"].is_string()) {
      return FieldError("input", absl::StrCat("an item must be a message with a role, found ", Shown(item)));
    }
    absl::StatusOr<Json> content = ContentOf(item);
    if (!content.ok()) return content.status();
    messages.push_back({{"role", item["role"]}, {"content", *std::move(content)}});
  }
  return messages;
}

struct Form {
  Json base;  // the response without what comes with its answer
  std::string message_id = NewId("msg_");

  Json Part(const std::string& text) const {
    return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}, {"logprobs", Json::array()}};
  }
  Json Item(const std::string& status, const Json& content) const {
    return {{"type", "message"}, {"id", message_id}, {"status", status}, {"role", "assistant"}, {"content", content}};
  }
  Json Whole(const Choice& choice) const {
    const bool cut = choice.finish == "length";
    Json json = base;
    json["status"] = cut ? "incomplete" : "completed";
    if (cut) json["incomplete_details"] = {{"reason", "max_output_tokens"}};
    json["output"] = Json::array({Item(cut ? "incomplete" : "completed", Json::array({Part(choice.text)}))});
    json["usage"] = {{"input_tokens", choice.prompt_tokens},
                     {"input_tokens_details", {{"cached_tokens", choice.cached_tokens}, {"cache_write_tokens", 0}}},
                     {"output_tokens", choice.new_tokens},
                     {"output_tokens_details", {{"reasoning_tokens", 0}}},
                     {"total_tokens", choice.prompt_tokens + choice.new_tokens}};
    return json;
  }
};

// The events of a stream, numbered from its first.
AnswerShape ResponseShape(const Form& form) {
  const auto number = std::make_shared<int64_t>(0);
  const auto event = [number](const std::string& type, const Json& fields) {
    Json json = {{"type", type}, {"sequence_number", (*number)++}};
    json.update(fields);
    return NamedEvent(type, json);
  };
  const Json at = {{"item_id", form.message_id}, {"output_index", 0}, {"content_index", 0}};
  const auto with = [at](const char* name, Json value) {
    Json json = at;
    json[name] = std::move(value);
    return json;
  };
  const auto begin = [form, event, with] {  // one after the other: they are numbered
    std::string events = event("response.created", {{"response", form.base}});
    events += event("response.in_progress", {{"response", form.base}});
    events += event("response.output_item.added",
                    {{"output_index", 0}, {"item", form.Item("in_progress", Json::array())}});
    return events + event("response.content_part.added", with("part", form.Part("")));
  };
  AnswerShape shape;
  shape.piece = [begin, event, at](const Choice&, const AskUpdate& grown, bool first) {
    Json delta = at;
    delta["delta"] = grown.text;
    delta["logprobs"] = Json::array();
    const std::string begun = first ? begin() : "";
    return begun + event("response.output_text.delta", delta);
  };
  shape.finish = [form, begin, event, with, at](const Choice& choice, const AskUpdate&, bool first) {
    const Json whole = form.Whole(choice);
    Json done = at;
    done["text"] = choice.text;
    done["logprobs"] = Json::array();
    std::string events = first ? begin() : "";
    events += event("response.output_text.done", done);
    events += event("response.content_part.done", with("part", form.Part(choice.text)));
    events += event("response.output_item.done", {{"output_index", 0}, {"item", whole["output"][0]}});
    return events +
           event(choice.finish == "length" ? "response.incomplete" : "response.completed", {{"response", whole}});
  };
  shape.end = [](const std::vector<Choice>&) { return std::string(); };
  shape.error = [event](const ErrorAnswer& error) {
    return event("error", {{"code", error.code}, {"message", error.message}, {"param", error.param}});
  };
  shape.whole = [form](const std::vector<Choice>& choices) { return form.Whole(choices[0]); };
  return shape;
}

}  // namespace

absl::StatusOr<Prepared> PrepareResponse(Service& service, Body& body) {
  AnswerFields fields = ReadAnswerFields(service, body);
  body.NotThere("n", {1});
  body.NotThere("top_logprobs", {0});
  if (const std::optional<int64_t> most = body.Int("max_output_tokens", 1, int64_t{1} << 31)) fields.max_tokens = most;
  body.NotThere("previous_response_id");
  body.NotThere("conversation");
  body.NotThere("background");
  body.NotThere("tools");
  body.NotThere("tool_choice", {"none", "auto"});
  body.NotThere("prompt");
  body.NotThere("truncation", {"disabled"});
  body.NotThere("text", {Json{{"format", {{"type", "text"}}}}, Json{{"verbosity", "medium"}}});
  body.Ignore({"client_metadata", "include", "reasoning", "max_tool_calls"});
  absl::StatusOr<Json> messages = MessagesOf(body);
  if (!messages.ok()) return messages.status();
  if (!body.status().ok()) return body.status();
  absl::StatusOr<std::vector<int32_t>> tokens = EncodeChat(service, *std::move(messages), nullptr, nullptr);
  if (!tokens.ok()) {
    return FieldError("input", tokens.status().message());
  }
  absl::StatusOr<AnswerRequest> request = ChatRequest(service, *std::move(tokens), fields);
  if (!request.ok()) return request.status();
  Form form;
  const Json* instructions = body.Find("instructions");
  form.base = {{"id", NewId("resp_")},
               {"object", "response"},
               {"created_at", UnixTime()},
               {"status", "in_progress"},
               {"error", nullptr},
               {"incomplete_details", nullptr},
               {"instructions", instructions == nullptr ? Json() : *instructions},
               {"max_output_tokens", fields.max_tokens.has_value() ? Json(*fields.max_tokens) : Json()},
               {"model", service.model},
               {"output", Json::array()},
               {"parallel_tool_calls", false},
               {"previous_response_id", nullptr},
               {"store", false},
               {"temperature", fields.ask.temperature},
               {"text", {{"format", {{"type", "text"}}}}},
               {"tool_choice", "none"},
               {"tools", Json::array()},
               {"top_p", fields.ask.top_p},
               {"truncation", "disabled"},
               {"usage", nullptr},
               {"metadata", Json::object()}};
  return Prepared{*std::move(request), ResponseShape(form)};
}

}  // namespace duo::http
