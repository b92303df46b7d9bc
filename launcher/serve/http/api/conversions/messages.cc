#include "launcher/serve/http/api/conversions/messages.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "launcher/serve/http/api/answers/answer_items.h"
#include "launcher/serve/http/api/answers/tool_fields.h"
#include "launcher/serve/http/api/conversions/messages_input.h"
#include "launcher/serve/http/api/openai/chat.h"

namespace duo::http {
namespace {

using Kind = AnswerPart::Kind;

struct Asked {
  std::vector<int32_t> tokens;
  ToolFields tools;
};

// The conversation in the model's form.
absl::StatusOr<Asked> ReadConversation(const Service& service, Body& body) {
  body.String("model");
  body.NotThere("mcp_servers");
  body.NotThere("container");
  const Json offered = MessageTools(body), choice = MessageToolChoice(body);
  Json arguments = Json::object();
  if (const Json* thinking = body.Find("thinking")) {
    const bool typed = thinking->is_object() && thinking->contains("type") && (*thinking)["type"].is_string();
    if (!typed) body.Fail("thinking", "thinking must be an object with a type");
    if (typed) arguments["enable_thinking"] = (*thinking)["type"] != "disabled";  // as Qwen's templates call it
  }
  if (!body.status().ok()) return body.status();
  Asked asked;
  asked.tools = ReadToolFields(service, body, offered, choice);
  absl::StatusOr<Json> turns = MessageTurns(body);
  if (!turns.ok()) return turns.status();
  if (!body.status().ok()) return body.status();
  absl::StatusOr<std::vector<int32_t>> tokens = EncodeChat(service, *std::move(turns), asked.tools.tools, &arguments);
  if (!tokens.ok()) return tokens.status();
  asked.tokens = *std::move(tokens);
  return asked;
}

Json BlockJson(const AnswerItem& item, bool begun = false) {
  const std::string text = begun ? "" : item.text;
  switch (item.kind) {
    case Kind::kReasoning:
      return {{"type", "thinking"}, {"thinking", text}, {"signature", ""}};
    case Kind::kContent:
      return {{"type", "text"}, {"text", text}};
    case Kind::kToolCall:
      return {{"type", "tool_use"},
              {"id", item.call_id},
              {"name", item.name},
              {"input", begun ? Json::object() : Json::parse(item.text)}};  // an object: it was read as one
  }
  return Json();
}

struct Form {
  Json base;
  AnswerForm answer;

  Json UsageOf(const Choice& choice) const {
    return {{"input_tokens", choice.prompt_tokens - choice.cached_tokens},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", choice.cached_tokens},
            {"output_tokens", choice.new_tokens}};
  }
  Json Stop(const Choice& choice, bool called) const {
    Json json = {{"stop_reason", called ? "tool_use" : "end_turn"}, {"stop_sequence", nullptr}};
    if (choice.ended_by == "length") json["stop_reason"] = "max_tokens";
    if (choice.stop.empty() || called) return json;
    json["stop_reason"] = "stop_sequence";
    json["stop_sequence"] = choice.stop;
    return json;
  }
};

// The events of one stream.
class Stream {
 public:
  explicit Stream(Form form)
      : form_(std::move(form)),
        items_(form_.answer, {[](const AnswerItem& item) { return Opened(item); }, Grew,
                              [](const AnswerItem& item) { return Event("content_block_stop", At(item, {})); }}) {}

  std::string Begin(const Choice& choice) const {
    Json message = form_.base;
    message["content"] = Json::array();
    message.update(Json{{"stop_reason", nullptr}, {"stop_sequence", nullptr}});
    message["usage"] = form_.UsageOf(choice);
    message["usage"]["output_tokens"] = 0;
    return Event("message_start", {{"message", message}});
  }
  std::string Push(const std::string& text) { return items_.Push(text); }
  std::string End(const Choice& choice) {
    const std::string items = items_.Flush();
    return items +
           Event("message_delta",
                 {{"delta", form_.Stop(choice, items_.called())}, {"usage", {{"output_tokens", choice.new_tokens}}}}) +
           Event("message_stop", Json::object());
  }
  static std::string Error(const ErrorAnswer& error) {
    return Event("error", {{"error", {{"type", "api_error"}, {"message", error.message}}}});
  }

 private:
  static std::string Event(const std::string& type, const Json& fields) {
    Json json = {{"type", type}};
    json.update(fields);
    return NamedEvent(type, json);
  }
  static Json At(const AnswerItem& item, const Json& more) {
    Json json = {{"index", item.index}};
    if (more.is_object()) json.update(more);
    return json;
  }
  static std::string Opened(const AnswerItem& item) {
    return Event("content_block_start", At(item, {{"content_block", BlockJson(item, /*begun=*/true)}}));
  }
  static std::string Grew(const AnswerItem& item, const std::string& grown) {
    Json delta = {{"type", "text_delta"}, {"text", grown}};
    if (item.kind == Kind::kReasoning) delta = {{"type", "thinking_delta"}, {"thinking", grown}};
    if (item.kind == Kind::kToolCall) delta = {{"type", "input_json_delta"}, {"partial_json", grown}};
    return Event("content_block_delta", At(item, {{"delta", delta}}));
  }

  const Form form_;
  AnswerItems items_;
};

AnswerShape MessageShape(const Form& form) {
  const auto stream = std::make_shared<Stream>(form);
  AnswerShape shape;
  shape.piece = [stream](const Choice& choice, const AskUpdate& grown, bool first) {
    const std::string begun = first ? stream->Begin(choice) : "";
    return begun + stream->Push(grown.text);
  };
  shape.finish = [stream](const Choice& choice, const AskUpdate&, bool first) {
    const std::string begun = first ? stream->Begin(choice) : "";
    return begun + stream->End(choice);
  };
  shape.end = [](const std::vector<Choice>&) { return std::string(); };
  shape.error = Stream::Error;
  shape.whole = [form](const std::vector<Choice>& choices) {
    const Choice& choice = choices[0];
    Json json = form.base;
    json["content"] = Json::array();
    bool called = false;
    for (const AnswerItem& item : ItemsOf(form.answer, choice.text)) {
      json["content"].push_back(BlockJson(item));
      called |= item.kind == Kind::kToolCall;
    }
    json.update(form.Stop(choice, called));
    json["usage"] = form.UsageOf(choice);
    return json;
  };
  return shape;
}

}  // namespace

absl::StatusOr<Prepared> PrepareMessage(Service& service, Body& body) {
  AnswerFields fields = ReadAnswerFields(service, body);
  body.NotThere("n", {1});
  fields.ask.stop = ReadStops(body, "stop_sequences");
  if (!fields.max_tokens.has_value()) body.Fail("max_tokens", "max_tokens is missing");
  absl::StatusOr<Asked> asked = ReadConversation(service, body);
  if (!asked.ok()) return asked.status();
  Form form;
  if (!AdoptTools(asked->tools, body, fields.ask.guide, form.answer)) return body.status();
  const Tokenizer& tokenizer = *service.calls.load()->tokenizer;
  form.answer.begins_thinking = form.answer.reasoning && EndsThinking(tokenizer, asked->tokens);
  form.base = {{"id", NewId("msg_")}, {"type", "message"}, {"role", "assistant"}, {"model", service.model}};
  absl::StatusOr<AnswerRequest> request = ChatRequest(service, std::move(asked->tokens), fields);
  if (!request.ok()) return request.status();
  return Prepared{*std::move(request), MessageShape(form)};
}

absl::StatusOr<Json> CountTokens(Service& service, Body& body) {
  body.Ignore({"tool_choice", "thinking"});
  const absl::StatusOr<Asked> asked = ReadConversation(service, body);
  if (!asked.ok()) return asked.status();
  return Json{{"input_tokens", asked->tokens.size()}};
}

}  // namespace duo::http
