#include "launcher/serve/http/api/conversions/responses_input.h"

#include "absl/strings/str_cat.h"
#include "launcher/serve/http/api/answers/tool_fields.h"
#include "launcher/serve/http/api/base/errors.h"

namespace duo::http {
namespace {

std::string TextOf(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// A text, or the joined parts that are texts. what: how errors call it.
absl::StatusOr<std::string> JoinedText(const Json& content, const char* what) {
  if (content.is_null()) return std::string();
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return FieldError("input", absl::StrCat(what, " must be a text or a list of parts"));
  std::string text;
  for (const Json& part : content) {
    const std::string type = part.is_object() ? TextOf(part, "type") : "";
    const bool is_text = type == "input_text" || type == "output_text" || type == "text" || type == "reasoning_text";
    if (!is_text || !part.contains("text") || !part["text"].is_string()) {
      return FieldError("input", absl::StrCat("a part of ", what, " must be a text, found ", Shown(part)));
    }
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

Json Field(const Json& item, const char* name) { return item.contains(name) ? item[name] : Json(); }

// The conversation as it grows item by item.
class Turns {
 public:
  absl::Status Add(const Json& item) {
    const std::string type = item.is_object() ? (item.contains("type") ? TextOf(item, "type") : "message") : "";
    if (type == "message") return AddMessage(item);
    if (type == "reasoning") return AddReasoning(item);
    if (type == "function_call") return AddCall(item);
    if (type == "function_call_output") return AddResult(item);
    return FieldError("input", absl::StrCat("an item must be a message, a reasoning, a function_call or a "
                                            "function_call_output, found ",
                                            Shown(item)));
  }
  Json Take() { return std::move(messages_); }

 private:
  // The model's own turn: the last message, or a new one.
  Json& Own(bool go_on) {
    if (!go_on || messages_.empty() || messages_.back()["role"] != "assistant") {
      messages_.push_back({{"role", "assistant"}, {"content", ""}});
    }
    return messages_.back();
  }

  absl::Status AddMessage(const Json& item) {
    const std::string role = TextOf(item, "role");
    if (role.empty()) return FieldError("input", absl::StrCat("a message has no role: ", Shown(item)));
    const absl::StatusOr<std::string> text = JoinedText(Field(item, "content"), "a message's content");
    if (!text.ok()) return text.status();
    if (role != "assistant") {
      messages_.push_back({{"role", role}, {"content", *text}});
      return absl::OkStatus();
    }
    const bool thought = !messages_.empty() && messages_.back().contains("reasoning_content");
    // NOLINTNEXTLINE(readability-container-size-empty): empty() of a JSON string is false, even of "".
    Own(thought && messages_.back()["content"] == "" && !messages_.back().contains("tool_calls"))["content"] = *text;
    return absl::OkStatus();
  }

  absl::Status AddReasoning(const Json& item) {
    const absl::StatusOr<std::string> text = JoinedText(Field(item, "content"), "a reasoning's content");
    if (!text.ok()) return text.status();
    if (!text->empty()) Own(false)["reasoning_content"] = *text;
    return absl::OkStatus();
  }

  absl::Status AddCall(const Json& item) {
    const std::string name = TextOf(item, "name"), id = TextOf(item, "call_id");
    if (name.empty() || !Field(item, "arguments").is_string()) {
      return FieldError("input", absl::StrCat("a function_call needs name and arguments, found ", Shown(item)));
    }
    Json& turn = Own(true);
    if (!turn.contains("tool_calls")) turn["tool_calls"] = Json::array();
    turn["tool_calls"].push_back(
        {{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", item["arguments"]}}}});
    return absl::OkStatus();
  }

  absl::Status AddResult(const Json& item) {
    const absl::StatusOr<std::string> text = JoinedText(Field(item, "output"), "a function_call_output's output");
    if (!text.ok()) return text.status();
    messages_.push_back({{"role", "tool"}, {"tool_call_id", TextOf(item, "call_id")}, {"content", *text}});
    return absl::OkStatus();
  }

  Json messages_ = Json::array();
};

}  // namespace

absl::StatusOr<Json> ResponseMessages(Body& body) {
  Turns turns;
  const std::optional<std::string> instructions = body.String("instructions");
  const Json* input = body.Find("input");
  if (!body.status().ok()) return body.status();
  if (input == nullptr) return FieldError("input", "input is missing");
  if (!input->is_string() && !input->is_array())
    return FieldError("input", "input must be a string or a list of items");
  if (instructions.has_value()) {
    if (absl::Status s = turns.Add({{"role", "system"}, {"content", *instructions}}); !s.ok()) return s;
  }
  for (const Json& item : input->is_string() ? Json::array({{{"role", "user"}, {"content", *input}}}) : *input) {
    if (absl::Status s = turns.Add(item); !s.ok()) return s;
  }
  return turns.Take();
}

Json ResponseTools(Body& body) {
  return NestedTools(body, "{\"type\": \"function\", \"name\": ..}", [](const Json& tool) {
    if (!tool.is_object() || TextOf(tool, "type") != "function" || TextOf(tool, "name").empty()) return Json();
    Json function = tool;
    function.erase("type");
    return function;
  });
}

Json ResponseToolChoice(Body& body) {
  const Json* choice = body.Find("tool_choice");
  if (choice == nullptr) return Json();
  if (*choice == "none" || *choice == "auto" || *choice == "required") return *choice;
  const std::string name = choice->is_object() ? TextOf(*choice, "name") : "";
  if (name.empty() || TextOf(*choice, "type") != "function") {
    body.Fail("tool_choice", absl::StrCat("tool_choice must be none, auto, required or a function by its name, found ",
                                          Shown(*choice)));
    return Json();
  }
  return {{"type", "function"}, {"function", {{"name", name}}}};
}

}  // namespace duo::http
