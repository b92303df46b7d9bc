#include "launcher/serve/http/api/tool_fields.h"

#include "absl/strings/str_cat.h"

namespace duo::http {
namespace {

const Json* Function(const Json& tool) {
  const bool is = tool.is_object() && tool.contains("function") && tool["function"].is_object() &&
                  tool["function"].contains("name") && tool["function"]["name"].is_string();
  return is ? &tool["function"] : nullptr;
}

// A call of one of these tools, as JSON: its name and arguments that satisfy its parameters.
Guide CallGuide(const std::vector<const Json*>& functions) {
  Json calls = Json::array();
  for (const Json* function : functions) {
    Json parameters = {{"type", "object"}};
    if (function->contains("parameters") && (*function)["parameters"].is_object())
      parameters = (*function)["parameters"];
    calls.push_back({{"type", "object"},
                     {"properties", {{"name", {{"const", (*function)["name"]}}}, {"arguments", parameters}}},
                     {"required", {"name", "arguments"}},
                     {"additionalProperties", false}});
  }
  return {Guide::Kind::kJsonSchema, Text(Json{{"anyOf", calls}})};
}

}  // namespace

ToolFields ReadToolFields(const Service& service, Body& body) {
  ToolFields fields;
  fields.form = service.chat.ok() ? AnswerFormOf(service.chat->source()) : AnswerForm();
  const AnswerForm::Tools family = std::exchange(fields.form.tools, AnswerForm::Tools::kNone);
  const Json* tools = body.Find("tools");
  const Json* choice = body.Find("tool_choice");
  if (tools != nullptr && tools->is_array() && tools->empty()) tools = nullptr;
  if (tools == nullptr) {
    if (choice != nullptr && *choice != "none" && *choice != "auto") {
      body.Fail("tool_choice", "tool_choice needs tools");
    }
    return fields;
  }
  if (!tools->is_array()) {
    body.Fail("tools", "tools must be a list");
    return fields;
  }
  std::vector<const Json*> functions;
  for (const Json& tool : *tools) {
    functions.push_back(Function(tool));
    if (functions.back() == nullptr) {
      body.Fail("tools", absl::StrCat("a tool must be {\"type\": \"function\", \"function\": {\"name\": ..}}, found ",
                                      Shown(tool)));
      return fields;
    }
  }
  if (choice != nullptr && *choice == "none") return fields;
  if (family == AnswerForm::Tools::kNone) {
    body.Fail(
        "tools",
        "this model's chat template has no form of tool calls that this server reads (Hermes', Qwen's, Llama 3's)");
    return fields;
  }
  fields.tools = tools;
  fields.form.tools = family;
  if (choice == nullptr || *choice == "auto") return fields;
  if (*choice != "required") {
    const Json* named = Function(*choice);
    std::erase_if(functions, [&](const Json* f) { return named == nullptr || (*f)["name"] != (*named)["name"]; });
    if (functions.empty()) {
      body.Fail("tool_choice", absl::StrCat("tool_choice names no tool of this request: ", Shown(*choice)));
      return fields;
    }
  }
  fields.guide = CallGuide(functions);
  fields.form = {.tools = AnswerForm::Tools::kLlama3};  // the answer is the call alone
  return fields;
}

Json ToolCallJson(const AnswerPart& call, const std::string& id) {
  return {{"id", id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.text}}}};
}

}  // namespace duo::http
