#include "launcher/serve/http/api/answers/guide_fields.h"

#include "absl/strings/str_cat.h"

namespace duo::http {
namespace {

// As GBNF: one of these texts.
std::string Choices(const Json& texts) {
  std::string grammar = "root ::= ";
  for (size_t i = 0; i < texts.size(); ++i) {
    absl::StrAppend(&grammar, i > 0 ? " | " : "", "\"");
    for (const char c : texts[i].get_ref<const std::string&>()) {
      if (c == '"' || c == '\\') grammar += '\\';
      if (c == '\n') {
        grammar += "\\n";
      } else {
        grammar += c;
      }
    }
    grammar += '"';
  }
  return grammar;
}

Guide SchemaGuide(const Json& schema) {
  return {Guide::Kind::kJsonSchema, schema.is_string() ? schema.get<std::string>() : Text(schema)};
}

}  // namespace

void ReadResponseFormat(Body& body, const Json& format, Guide* guide, const char* field) {
  const std::string type = format.is_object() && format.contains("type") && format["type"].is_string()
                               ? format["type"].get<std::string>()
                               : "";
  if (type == "text") return;
  if (type == "json_object") {
    *guide = {Guide::Kind::kJsonObject, ""};
  } else if (type == "json_schema") {
    const Json* schema = nullptr;
    if (format.contains("json_schema") && format["json_schema"].is_object()) {
      const Json& named = format["json_schema"];
      schema = named.contains("schema") ? &named["schema"] : nullptr;
    } else if (format.contains("schema")) {
      schema = &format["schema"];
    }
    if (schema == nullptr) {
      return body.Fail(field, absl::StrCat(field, " of type json_schema needs a schema"));
    }
    *guide = SchemaGuide(*schema);
  } else {
    body.Fail(field, absl::StrCat(field, " must have type text, json_object or json_schema, found ", Shown(format)));
  }
}

namespace {

void ReadChoice(Body& body, const char* field, const Json& choice, Guide* guide) {
  bool texts = choice.is_array() && !choice.empty();
  if (texts) {
    for (const Json& text : choice) texts &= text.is_string();
  }
  if (!texts) return body.Fail(field, absl::StrCat(field, " must be a list of strings, found ", Shown(choice)));
  *guide = {Guide::Kind::kGrammar, Choices(choice)};
}

void ReadText(Body& body, const char* field, const Json& text, Guide::Kind kind, Guide* guide) {
  if (!text.is_string()) return body.Fail(field, absl::StrCat(field, " must be a string, found ", Shown(text)));
  *guide = {kind, text.get<std::string>()};
}

}  // namespace

Guide ReadGuide(Body& body) {
  Guide guide;
  int asked = 0;
  const char* field = "";
  const auto find = [&](const char* name) {
    const Json* value = body.Find(name);
    if (value != nullptr) field = name;
    return value;
  };
  const auto count = [&] {
    if (guide.kind != Guide::Kind::kNone && ++asked > 1) {
      body.Fail(field, absl::StrCat("the answer can be asked to be one thing only, and ", field, " asks for a second"));
    }
  };
  if (const Json* v = find("response_format")) ReadResponseFormat(body, *v, &guide, "response_format"), count();
  if (const Json* v = find("guided_json")) guide = SchemaGuide(*v), count();
  if (const Json* v = find("guided_regex")) ReadText(body, "guided_regex", *v, Guide::Kind::kRegex, &guide), count();
  if (const Json* v = find("guided_choice")) ReadChoice(body, "guided_choice", *v, &guide), count();
  if (const Json* v = find("guided_grammar"))
    ReadText(body, "guided_grammar", *v, Guide::Kind::kGrammar, &guide), count();
  if (const Json* v = find("structured_outputs")) {
    if (!v->is_object()) {
      body.Fail("structured_outputs", "structured_outputs must be an object");
      return guide;
    }
    for (const auto& [name, value] : v->items()) {
      if (value.is_null()) continue;
      if (name == "json") {
        guide = SchemaGuide(value);
      } else if (name == "regex") {
        ReadText(body, "structured_outputs", value, Guide::Kind::kRegex, &guide);
      } else if (name == "choice") {
        ReadChoice(body, "structured_outputs", value, &guide);
      } else if (name == "grammar") {
        ReadText(body, "structured_outputs", value, Guide::Kind::kGrammar, &guide);
      } else if (name == "json_object") {
        if (value == true) guide = {Guide::Kind::kJsonObject, ""};
      } else {
        body.Fail("structured_outputs", absl::StrCat("structured_outputs: ", name, " is not supported"));
      }
      count();
    }
  }
  body.Ignore({"guided_decoding_backend", "guided_whitespace_pattern"});
  return guide;
}

}  // namespace duo::http
