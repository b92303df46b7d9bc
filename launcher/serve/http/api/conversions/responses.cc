#include "launcher/serve/http/api/conversions/responses.h"

#include "launcher/serve/http/api/answers/guide_fields.h"
#include "launcher/serve/http/api/answers/tool_fields.h"
#include "launcher/serve/http/api/conversions/responses_input.h"
#include "launcher/serve/http/api/conversions/responses_shape.h"
#include "launcher/serve/http/api/openai/chat.h"

namespace duo::http {
namespace {

// text: {"format": .., "verbosity": ..}. Gives the format, for the response.
Json ReadFormat(Body& body, Guide* guide) {
  Json plain = {{"type", "text"}};
  const Json* text = body.Find("text");
  if (text == nullptr) return plain;
  if (!text->is_object()) {
    body.Fail("text", "text must be an object");
    return plain;
  }
  Body inner(*text);
  const Json* format = inner.Find("format");
  if (format == nullptr) return plain;
  ReadResponseFormat(body, *format, guide, "text.format");
  return *format;
}

// The tools of a request as a response repeats them, which is with all their fields.
Json ToolsJson(Body& body) {
  Json tools = Json::array();
  const Json* given = body.Find("tools");
  if (given == nullptr) return tools;
  for (const Json& tool : *given) {
    Json whole = {{"type", "function"}, {"description", nullptr}, {"parameters", nullptr}, {"strict", true}};
    whole.update(tool);
    tools.push_back(std::move(whole));
  }
  return tools;
}

Json Repeated(Body& body, const char* name, const Json& fallback) {
  const Json* given = body.Find(name);
  return given == nullptr ? fallback : *given;
}

void RefuseWhatIsNotThere(Body& body) {
  body.NotThere("n", {1});
  body.NotThere("top_logprobs", {0});
  body.NotThere("previous_response_id");
  body.NotThere("conversation");
  body.NotThere("background");
  body.NotThere("prompt");
  body.NotThere("truncation", {"disabled"});
  body.Ignore({"client_metadata", "reasoning", "max_tool_calls"});
  const Json* include = body.Find("include");
  for (const Json& wanted : include != nullptr && include->is_array() ? *include : Json::array()) {
    if (wanted != "message.output_text.logprobs") continue;
    body.Fail("include", "log-probabilities are not supported on this route; /v1/chat/completions has them",
              "unsupported");
  }
}

// The response without what comes with its answer.
Json BaseJson(const Service& service, Body& body, const AnswerFields& fields, const Json& format) {
  return {{"id", NewId("resp_")},
          {"object", "response"},
          {"created_at", UnixTime()},
          {"status", "in_progress"},
          {"error", nullptr},
          {"incomplete_details", nullptr},
          {"instructions", Repeated(body, "instructions", nullptr)},
          {"max_output_tokens", fields.max_tokens.has_value() ? Json(*fields.max_tokens) : Json()},
          {"model", service.model},
          {"output", Json::array()},
          {"parallel_tool_calls", body.Bool("parallel_tool_calls", true)},
          {"previous_response_id", nullptr},
          {"store", false},
          {"temperature", fields.ask.temperature},
          {"text", {{"format", format}}},
          {"tool_choice", Repeated(body, "tool_choice", "auto")},
          {"tools", ToolsJson(body)},
          {"top_p", fields.ask.top_p},
          {"truncation", "disabled"},
          {"usage", nullptr},
          {"metadata", Json::object()}};
}

}  // namespace

absl::StatusOr<Prepared> PrepareResponse(Service& service, Body& body) {
  AnswerFields fields = ReadAnswerFields(service, body);
  RefuseWhatIsNotThere(body);
  if (const std::optional<int64_t> most = body.Int("max_output_tokens", 1, int64_t{1} << 31)) fields.max_tokens = most;
  const Json format = ReadFormat(body, &fields.ask.guide);
  const Json offered = ResponseTools(body), choice = ResponseToolChoice(body);
  if (!body.status().ok()) return body.status();
  const ToolFields tools = ReadToolFields(service, body, offered, choice);
  AnswerForm form;
  AdoptTools(tools, body, fields.ask.guide, form);
  absl::StatusOr<Json> messages = ResponseMessages(body);
  if (!messages.ok()) return messages.status();
  const Json base = BaseJson(service, body, fields, format);
  if (!body.status().ok()) return body.status();
  absl::StatusOr<std::vector<int32_t>> tokens = EncodeChat(service, *std::move(messages), tools.tools, nullptr);
  if (!tokens.ok()) return FieldError("input", tokens.status().message());
  const Tokenizer& tokenizer = *service.calls.load()->tokenizer;
  form.begins_thinking = form.reasoning && EndsThinking(tokenizer, *tokens);
  absl::StatusOr<AnswerRequest> request = ChatRequest(service, *std::move(tokens), fields);
  if (!request.ok()) return request.status();
  return Prepared{*std::move(request), ResponseShape(base, form, tokenizer)};
}

}  // namespace duo::http
