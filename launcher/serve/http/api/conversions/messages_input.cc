#include "launcher/serve/http/api/conversions/messages_input.h"

#include "absl/strings/str_cat.h"
#include "launcher/serve/http/api/answers/tool_fields.h"
#include "launcher/serve/http/api/base/errors.h"

namespace duo::http {
namespace {

bool HasText(const Json& object, const char* name) { return object.contains(name) && object[name].is_string(); }
std::string TypeOf(const Json& object) {
  return object.is_object() && HasText(object, "type") ? object["type"].get<std::string>() : "";
}

absl::Status BadBlock(const Json& block) {
  return FieldError(
      "messages",
      absl::StrCat("a block must be text, thinking, tool_use or a tool_result of text, found ", Shown(block)));
}

// A text, or the joined blocks of type text.
absl::StatusOr<std::string> JoinedText(const Json& content) {
  if (content.is_null()) return std::string();
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return BadBlock(content);
  std::string text;
  for (const Json& block : content) {
    if (TypeOf(block) != "text" || !HasText(block, "text")) return BadBlock(block);
    text += block["text"].get_ref<const std::string&>();
  }
  return text;
}

absl::Status AddResult(const Json& block, Json* turns) {
  if (!HasText(block, "tool_use_id")) return BadBlock(block);
  const absl::StatusOr<std::string> text = JoinedText(block.contains("content") ? block["content"] : Json());
  if (!text.ok()) return BadBlock(block);
  turns->push_back({{"role", "tool"}, {"tool_call_id", block["tool_use_id"]}, {"content", *text}});
  return absl::OkStatus();
}

absl::Status AddBlock(const Json& block, Json* turn) {
  const std::string type = TypeOf(block);
  if (type == "text" && HasText(block, "text")) {
    (*turn)["content"].get_ref<std::string&>() += block["text"].get_ref<const std::string&>();
  } else if (type == "thinking" && HasText(block, "thinking")) {
    (*turn)["reasoning_content"] = block["thinking"];
  } else if (type == "tool_use" && HasText(block, "name") && block.contains("input") && block["input"].is_object()) {
    if (!turn->contains("tool_calls")) (*turn)["tool_calls"] = Json::array();
    (*turn)["tool_calls"].push_back({{"id", block.contains("id") ? block["id"] : Json("")},
                                     {"type", "function"},
                                     {"function", {{"name", block["name"]}, {"arguments", block["input"]}}}});
  } else if (type != "redacted_thinking") {
    return BadBlock(block);
  }
  return absl::OkStatus();
}

absl::Status AddTurn(const Json& message, Json* turns) {
  if (!message.is_object() || !HasText(message, "role")) {
    return FieldError("messages", absl::StrCat("a message must have role and content, found ", Shown(message)));
  }
  Json turn = {{"role", message["role"]}, {"content", ""}};
  const Json content = message.contains("content") ? message["content"] : Json();
  if (content.is_string()) {
    turn["content"] = content;
  } else if (content.is_array()) {
    bool results_alone = !content.empty();
    for (const Json& block : content) {
      const bool result = TypeOf(block) == "tool_result";
      results_alone &= result;
      if (absl::Status s = result ? AddResult(block, turns) : AddBlock(block, &turn); !s.ok()) return s;
    }
    if (results_alone) return absl::OkStatus();
  } else {
    return FieldError("messages", absl::StrCat("content must be a text or a list of blocks, found ", Shown(content)));
  }
  turns->push_back(std::move(turn));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Json> MessageTurns(Body& body) {
  const Json *messages = body.Find("messages"), *system = body.Find("system");
  Json turns = Json::array();
  if (system != nullptr) {
    const absl::StatusOr<std::string> text = JoinedText(*system);
    if (!text.ok()) return FieldError("system", "system must be a text or a list of blocks of text");
    turns.push_back({{"role", "system"}, {"content", *text}});
  }
  if (messages == nullptr || !messages->is_array()) return FieldError("messages", "messages must be a list");
  for (const Json& message : *messages) {
    if (absl::Status s = AddTurn(message, &turns); !s.ok()) return s;
  }
  return turns;
}

Json MessageTools(Body& body) {
  return NestedTools(body, "{\"name\": .., \"input_schema\": ..}", [](const Json& tool) {
    const std::string type = TypeOf(tool);
    if (!tool.is_object() || !HasText(tool, "name") || (!type.empty() && type != "custom")) return Json();
    Json function = {{"name", tool["name"]}};
    if (tool.contains("description")) function["description"] = tool["description"];
    if (tool.contains("input_schema")) function["parameters"] = tool["input_schema"];
    return function;
  });
}

Json MessageToolChoice(Body& body) {
  const Json* choice = body.Find("tool_choice");
  if (choice == nullptr) return Json();
  const std::string type = TypeOf(*choice);
  if (type == "auto" || type == "none") return type;
  if (type == "any") return "required";
  if (type == "tool" && HasText(*choice, "name"))
    return {{"type", "function"}, {"function", {{"name", (*choice)["name"]}}}};
  body.Fail("tool_choice",
            absl::StrCat("tool_choice must be of type auto, any, none, or tool with a name, found ", Shown(*choice)));
  return Json();
}

}  // namespace duo::http
