#include "runtime/text/grammar/json_schema.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/grammar/json_schema_keywords.h"
#include "runtime/text/grammar/json_schema_merge.h"
#include "runtime/text/grammar/json_values.h"
#include "runtime/text/grammar/regex_syntax.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

constexpr size_t kLongestKey = 256, kMostPrefixItems = 256;
constexpr std::string_view kAllTypes[] = {"object", "array", "string", "number", "boolean", "null"};

class SchemaReader {
 public:
  SchemaReader(GrammarBuilder& b, SchemaJson root) : b_(b), json_(b), root_(std::move(root)) {}

  absl::StatusOr<ExprId> Read() {
    const ExprId all = Reference("#", 0);
    if (!status_.ok()) return status_;
    if (!b_.status().ok()) return b_.status();
    return all;
  }

 private:
  ExprId Fail(const std::string& why) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("json_schema: ", why));
    return b_.Nothing();
  }
  ExprId Unsupported(const std::string& keyword) { return Fail(absl::StrCat(keyword, " is not supported")); }

  // Each schema that is referred to becomes one rule, however often and from wherever.
  ExprId Reference(const std::string& reference, int depth) {
    const auto [entry, fresh] = references_.try_emplace(reference, 0);
    if (!fresh) return b_.Rule(entry->second);
    const RuleId rule = entry->second = b_.NewRule();
    const SchemaJson* referred = FindReferred(root_, reference);
    if (referred == nullptr) return Fail(absl::StrCat("$ref ", reference, " names nothing in this schema"));
    const ExprId body = Value(*referred, depth + 1);
    b_.Define(rule, body);
    return b_.Rule(rule);
  }

  ExprId Value(const SchemaJson& schema, int depth) {
    if (!status_.ok() || !b_.Spend()) return b_.Nothing();
    if (depth > b_.limits().depth) return Fail(absl::StrCat("it is nested more than ", b_.limits().depth, " deep"));
    if (schema.is_boolean()) return schema.get<bool>() ? json_.AnyValue() : b_.Nothing();
    if (!schema.is_object()) return Fail("a schema is an object or a boolean");
    for (const auto& [keyword, value] : schema.items()) {
      if (!IsKnownKeyword(keyword, value)) return Unsupported(keyword);
    }
    if (schema.contains("$ref")) return Referring(schema, depth);
    for (const char* combining : {"allOf", "anyOf", "oneOf"}) {
      if (schema.contains(combining)) return Combined(schema, combining, depth);
    }
    if (schema.contains("const")) return Listed(schema, SchemaJson::array({schema["const"]}), depth);
    if (schema.contains("enum")) return Listed(schema, schema["enum"], depth);
    return Typed(schema, depth);
  }

  // The schema without one keyword.
  static SchemaJson Without(const SchemaJson& schema, const std::string& keyword) {
    SchemaJson rest = SchemaJson::object();
    for (const auto& [name, value] : schema.items()) {
      if (name != keyword) rest[name] = value;
    }
    return rest;
  }

  ExprId Referring(const SchemaJson& schema, int depth) {
    if (!schema["$ref"].is_string()) return Fail("$ref is a text");
    const std::string reference = schema["$ref"].get<std::string>();
    const SchemaJson rest = Without(schema, "$ref");
    if (OnlyAnnotations(rest)) return Reference(reference, depth);
    const SchemaJson* referred = FindReferred(root_, reference);
    if (referred == nullptr) return Fail(absl::StrCat("$ref ", reference, " names nothing in this schema"));
    const std::optional<SchemaJson> both = MergeSchemas(root_, rest, *referred);
    if (!both.has_value()) return Fail(absl::StrCat("$ref ", reference, " beside these keywords is not supported"));
    return Value(*both, depth + 1);
  }

  ExprId Combined(const SchemaJson& schema, const std::string& keyword, int depth) {
    const SchemaJson& branches = schema[keyword];
    if (!branches.is_array() || branches.empty()) return Fail(absl::StrCat(keyword, " is a list of schemas"));
    const SchemaJson rest = Without(schema, keyword);
    const bool alone = OnlyAnnotations(rest);
    if (keyword == "allOf") {
      std::optional<SchemaJson> all = alone ? SchemaJson(true) : rest;
      for (const SchemaJson& branch : branches) {
        if (all.has_value()) all = MergeSchemas(root_, *all, branch);
      }
      if (!all.has_value()) return Fail("allOf of schemas that cannot be written as one is not supported");
      return Value(*all, depth + 1);
    }
    if (keyword == "oneOf") {
      for (size_t i = 0; i < branches.size(); ++i) {
        for (size_t j = 0; j < i; ++j) {
          if (!b_.Spend(16)) return b_.Nothing();
          if (!AreDisjoint(root_, branches[i], branches[j])) {
            return Fail("oneOf whose branches may hold at once is not supported; anyOf is");
          }
        }
      }
    }
    std::vector<ExprId> choices;
    for (const SchemaJson& branch : branches) {
      if (alone) {
        choices.push_back(Value(branch, depth + 1));
        continue;
      }
      const std::optional<SchemaJson> both = MergeSchemas(root_, rest, branch);
      if (!both.has_value()) return Fail(absl::StrCat(keyword, " beside these keywords is not supported"));
      choices.push_back(Value(*both, depth + 1));
    }
    return b_.Choice(std::move(choices));
  }

  ExprId Listed(const SchemaJson& schema, const SchemaJson& values, int depth) {
    if (!values.is_array()) return Fail("enum is a list of values");
    for (const auto& [keyword, value] : schema.items()) {
      if (keyword != "type" && keyword != "enum" && keyword != "const" && !IsAnnotation(keyword)) {
        return Fail(absl::StrCat(keyword, " beside enum or const is not supported"));
      }
    }
    std::vector<ExprId> choices;
    for (const SchemaJson& value : values) {
      if (schema.contains("type") && !OfType(value, schema["type"])) continue;
      if (schema.contains("const") && schema.contains("enum") &&
          std::find(schema["enum"].begin(), schema["enum"].end(), value) == schema["enum"].end()) {
        continue;
      }
      choices.push_back(Constant(value, depth));
    }
    return b_.Choice(std::move(choices));
  }
  static bool OfType(const SchemaJson& value, const SchemaJson& type) {
    const auto is = [&](const SchemaJson& t) { return t.is_string() && HasType(value, t.get<std::string>()); };
    return type.is_array() ? std::any_of(type.begin(), type.end(), is) : is(type);
  }

  ExprId Constant(const SchemaJson& value, int depth) {
    if (!b_.Spend()) return b_.Nothing();
    if (depth > b_.limits().depth) return Fail("a constant is nested too deeply");
    if (value.is_string()) return Text(value.get<std::string>());
    if (value.is_array()) {
      std::vector<ExprId> elements;
      for (const SchemaJson& element : value) elements.push_back(Constant(element, depth + 1));
      const auto count = static_cast<int64_t>(elements.size());
      if (elements.size() > kMostPrefixItems) return Fail("a constant list is too long");
      return json_.Array(elements, b_.Nothing(), count, count);
    }
    if (!value.is_object()) return b_.Literal(value.dump());
    ObjectMembers members;
    for (const auto& [name, member] : value.items()) {
      members.required |= uint64_t{1} << std::min(members.members.size(), size_t{63});
      members.members.push_back(json_.Member(Text(name), Constant(member, depth + 1)));
    }
    if (members.members.size() > kMostMembers) return Fail("a constant object has too many members");
    return Braces(std::move(members));
  }
  ExprId Text(const std::string& text) { return json_.Quoted(b_.Literal(JsonEscaped(text))); }

  ExprId Typed(const SchemaJson& schema, int depth) {
    std::vector<std::string> types;
    if (!schema.contains("type")) {
      if (!HasKeywords(schema)) return json_.AnyValue();
      types.assign(std::begin(kAllTypes), std::end(kAllTypes));
    } else if (schema["type"].is_string()) {
      types.push_back(schema["type"].get<std::string>());
    } else if (schema["type"].is_array()) {
      for (const SchemaJson& type : schema["type"]) {
        if (!type.is_string()) return Fail("type is a name or a list of names");
        types.push_back(type.get<std::string>());
      }
    } else {
      return Fail("type is a name or a list of names");
    }
    std::vector<ExprId> choices;
    for (const std::string& type : types) choices.push_back(OneType(schema, type, depth));
    return b_.Choice(std::move(choices));
  }

  ExprId OneType(const SchemaJson& schema, const std::string& type, int depth) {
    if (type == "object") return Object(schema, depth);
    if (type == "array") return Array(schema, depth);
    if (type == "string") return String(schema);
    if (type == "number" || type == "integer") return Number(schema, type == "integer");
    if (type == "boolean") return b_.Choice({b_.Literal("true"), b_.Literal("false")});
    if (type == "null") return b_.Literal("null");
    return Fail(absl::StrCat("there is no type ", type));
  }

  // A count; `otherwise` where it is not there.
  int64_t Count(const SchemaJson& schema, const char* keyword, int64_t otherwise) {
    if (!schema.contains(keyword)) return otherwise;
    const SchemaJson& value = schema[keyword];
    if (!HasType(value, "integer") || value < 0) {
      Fail(absl::StrCat(keyword, " is a whole number, 0 or more"));
      return otherwise;
    }
    constexpr int64_t kMost = int64_t{1} << 31;
    return value > kMost ? (otherwise < 0 ? -1 : kMost) : value.get<int64_t>();
  }

  ExprId String(const SchemaJson& schema) {
    const int64_t min = Count(schema, "minLength", 0), max = Count(schema, "maxLength", -1);
    if (!schema.contains("pattern")) return json_.String(min, max);
    if (min > 0 || max >= 0) return Fail("pattern beside minLength or maxLength is not supported");
    if (!schema["pattern"].is_string()) return Fail("pattern is a text");
    absl::StatusOr<ExprId> inside =
        ParseRegex(b_, schema["pattern"].get<std::string>(), RegexMatch::kSomewhere, Spelling::kJsonString);
    if (!inside.ok()) return Fail(absl::StrCat("pattern: ", inside.status().message()));
    return json_.Quoted(*inside);
  }

  std::optional<DecimalBound> Bound(const SchemaJson& value, bool exclusive, const char* keyword) {
    std::string text = value.is_number() ? value.dump() : "";
    if (text.empty() || text.find_first_of("eE") != std::string::npos || text == "null") {
      Fail(absl::StrCat(keyword, " of ", value.dump(), " is not supported"));
      return std::nullopt;
    }
    DecimalBound bound;
    bound.exclusive = exclusive;
    bound.negative = text[0] == '-';
    if (bound.negative) text.erase(0, 1);
    const size_t point = std::min(text.find('.'), text.size());
    bound.whole = text.substr(0, point);
    bound.fraction = point < text.size() ? text.substr(point + 1) : "";
    while (bound.fraction.ends_with('0')) bound.fraction.pop_back();
    bound.negative &= !bound.zero();
    return bound;
  }

  ExprId Number(const SchemaJson& schema, bool integer) {
    std::optional<DecimalBound> low, high;
    // Where both kinds of bound are there the narrower one counts.
    const auto both = [&](const char* keyword, const char* exclusive, bool is_low) -> std::optional<DecimalBound> {
      const bool has = schema.contains(keyword), strict = schema.contains(exclusive);
      if (strict && schema[exclusive].is_boolean()) {  // of draft 4
        if (!has) return std::nullopt;
        return Bound(schema[keyword], schema[exclusive].get<bool>(), keyword);
      }
      if (!has && !strict) return std::nullopt;
      if (!strict) return Bound(schema[keyword], false, keyword);
      if (!has) return Bound(schema[exclusive], true, exclusive);
      const bool exclusive_counts =
          is_low ? schema[exclusive] >= schema[keyword] : schema[exclusive] <= schema[keyword];
      return exclusive_counts ? Bound(schema[exclusive], true, exclusive) : Bound(schema[keyword], false, keyword);
    };
    low = both("minimum", "exclusiveMinimum", true);
    high = both("maximum", "exclusiveMaximum", false);
    if (!status_.ok()) return b_.Nothing();
    return json_.Number(low, high, integer);
  }

  ExprId Array(const SchemaJson& schema, int depth) {
    const int64_t min = Count(schema, "minItems", 0), max = Count(schema, "maxItems", -1);
    const SchemaJson anything = true;
    const SchemaJson* more = &anything;
    std::vector<ExprId> first;
    const SchemaJson* tuple = nullptr;
    if (schema.contains("prefixItems")) tuple = &schema["prefixItems"];
    if (schema.contains("items") && schema["items"].is_array()) {  // of older drafts
      tuple = &schema["items"];
      if (schema.contains("additionalItems")) more = &schema["additionalItems"];
    } else if (schema.contains("items")) {
      more = &schema["items"];
    }
    if (tuple != nullptr) {
      if (!tuple->is_array() || tuple->size() > kMostPrefixItems) {
        return Fail(absl::StrCat("prefixItems is a list of at most ", kMostPrefixItems, " schemas"));
      }
      for (const SchemaJson& item : *tuple) first.push_back(Value(item, depth + 1));
    }
    return json_.Array(first, Value(*more, depth + 1), min, max);
  }

  ExprId Braces(ObjectMembers members) {
    members.separator = json_.Separator();
    return b_.Sequence({b_.Literal("{"), json_.Blank(), b_.Object(std::move(members)), json_.Blank(), b_.Literal("}")});
  }

  ExprId Object(const SchemaJson& schema, int depth) {
    SchemaJson properties = schema.value("properties", SchemaJson::object());
    const SchemaJson required = schema.value("required", SchemaJson::array());
    const SchemaJson additional = schema.value("additionalProperties", SchemaJson(true));
    if (!properties.is_object()) return Fail("properties is an object of schemas");
    if (!required.is_array()) return Fail("required is a list of names");
    if (properties.empty() && required.empty() && additional == true) return json_.AnyObject();
    for (const SchemaJson& name : required) {
      if (!name.is_string()) return Fail("required is a list of names");
      if (!properties.contains(name.get<std::string>())) properties[name.get<std::string>()] = additional;
    }
    std::vector<std::string> names;
    ObjectMembers members;
    for (const auto& [name, property] : properties.items()) {
      if (name.size() > kLongestKey)
        return Fail(absl::StrCat("a property's name has more than ", kLongestKey, " bytes"));
      const bool needed = std::find(required.begin(), required.end(), name) != required.end();
      names.push_back(name);
      const ExprId value = Value(property, depth + 1);
      if (value == b_.Nothing()) {  // it must not be there
        if (needed) return b_.Nothing();
        continue;
      }
      if (needed) members.required |= uint64_t{1} << std::min(members.members.size(), size_t{63});
      members.members.push_back(json_.Member(Text(name), value));
    }
    if (!status_.ok()) return b_.Nothing();
    if (additional != false) {
      const ExprId value = Value(additional, depth + 1);
      members.additional = json_.Member(json_.StringOtherThan(names), value);
    }
    if (members.members.size() > kMostMembers) {
      return Fail(absl::StrCat("an object with more than ", kMostMembers, " properties is not supported"));
    }
    return Braces(std::move(members));
  }

  GrammarBuilder& b_;
  JsonValues json_;
  SchemaJson root_;
  absl::Status status_;
  std::map<std::string, RuleId> references_;
};

// How deep braces and brackets are nested, outside of strings.
int Nesting(std::string_view text) {
  int depth = 0, deepest = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inside && c == '\\')
      ++i;
    else if (c == '"')
      inside = !inside;
    else if (!inside && (c == '{' || c == '['))
      deepest = std::max(deepest, ++depth);
    else if (!inside && (c == '}' || c == ']'))
      --depth;
  }
  return deepest;
}

}  // namespace

absl::StatusOr<ExprId> ParseJsonSchema(GrammarBuilder& b, std::string_view schema) {
  if (schema.size() > b.limits().bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("json_schema has ", schema.size(), " bytes, at most ", b.limits().bytes, " are read"));
  }
  if (Nesting(schema) > 4 * b.limits().depth) {
    return absl::InvalidArgumentError(absl::StrCat("json_schema: it is nested more than ", b.limits().depth, " deep"));
  }
  SchemaJson root = SchemaJson::parse(schema, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return absl::InvalidArgumentError("json_schema is not JSON");
  return SchemaReader(b, std::move(root)).Read();
}

ExprId AnyJsonObject(GrammarBuilder& b) { return JsonValues(b).AnyObject(); }

}  // namespace duo
