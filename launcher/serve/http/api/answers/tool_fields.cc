#include "launcher/serve/http/api/answers/tool_fields.h"

#include <algorithm>
#include <utility>

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

ToolFields ReadToolFields(const Service& service, Body& body, const Json& tools, const Json& choice) {
  ToolFields fields;
  fields.form = service.chat.ok() ? AnswerFormOf(service.chat->source()) : AnswerForm();
  const AnswerForm::Tools family = std::exchange(fields.form.tools, AnswerForm::Tools::kNone);
  const bool free = choice.is_null() || choice == "auto";
  if (tools.is_null() || tools == Json::array()) {
    if (!free && choice != "none") body.Fail("tool_choice", "tool_choice needs tools");
    return fields;
  }
  if (!tools.is_array()) {
    body.Fail("tools", "tools must be a list");
    return fields;
  }
  std::vector<const Json*> functions;
  for (const Json& tool : tools) {
    functions.push_back(Function(tool));
    if (functions.back() == nullptr) {
      body.Fail("tools", absl::StrCat("a tool must be {\"type\": \"function\", \"function\": {\"name\": ..}}, found ",
                                      Shown(tool)));
      return fields;
    }
  }
  if (choice == "none") return fields;
  if (family == AnswerForm::Tools::kNone) {
    body.Fail(
        "tools",
        "this model's chat template has no form of tool calls that this server reads (Hermes', Qwen's, Llama 3's)");
    return fields;
  }
  fields.tools = tools;
  fields.form.tools = family;
  if (free) return fields;
  if (choice != "required") {
    const Json* named = Function(choice);
    std::erase_if(functions, [&](const Json* f) { return named == nullptr || (*f)["name"] != (*named)["name"]; });
    if (functions.empty()) {
      body.Fail("tool_choice", absl::StrCat("tool_choice names no tool of this request: ", Shown(choice)));
      return fields;
    }
  }
  fields.guide = CallGuide(functions);
  fields.form = {.tools = AnswerForm::Tools::kLlama3};  // the answer is the call alone
  return fields;
}

Json NestedTools(Body& body, const std::string& expected, const std::function<Json(const Json& tool)>& function_of) {
  const Json* tools = body.Find("tools");
  if (tools == nullptr) return Json();
  if (!tools->is_array()) {
    body.Fail("tools", "tools must be a list");
    return Json();
  }
  Json nested = Json::array();
  for (const Json& tool : *tools) {
    Json function = function_of(tool);
    if (function.is_null()) {
      body.Fail("tools", absl::StrCat("a tool must be ", expected, ", found ", Shown(tool)), "unsupported");
      return Json();
    }
    nested.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return nested;
}

bool AdoptTools(const ToolFields& tools, Body& body, Guide& guide, AnswerForm& form) {
  form = tools.form;
  if (tools.guide.kind != Guide::Kind::kNone) {
    if (guide.kind != Guide::Kind::kNone) {
      body.Fail("tool_choice", "tool_choice asks for a call, and response_format for something else");
      return false;
    }
    guide = tools.guide;
  }
  if (guide.kind != Guide::Kind::kNone) form.reasoning = false;
  return true;
}

bool EndsThinking(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt) {
  constexpr size_t kLast = 12;  // tokens: of the marker and of line breaks behind it
  const std::vector<int32_t> last(prompt.end() - static_cast<int64_t>(std::min(kLast, prompt.size())), prompt.end());
  std::string text = tokenizer.Decode(last, /*skip_special=*/false);
  text.erase(text.find_last_not_of(" \n") + 1);
  return text.ends_with("<think>");
}

Json ToolCallJson(const AnswerPart& call, const std::string& id) {
  return {{"id", id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.text}}}};
}

}  // namespace duo::http
