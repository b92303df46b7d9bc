#include "runtime/text/grammar/json_schema_merge.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

namespace duo {
namespace {

constexpr std::string_view kAnnotations[] = {
    "title",           "description",      "default", "examples", "deprecated",  "readOnly", "writeOnly",
    "$comment",        "$schema",          "$id",     "format",   "definitions", "$defs",    "id",
    "contentEncoding", "contentMediaType", "$anchor", "strict",   "name"};

// The schema that a lone $ref stands for.
const SchemaJson& Resolved(const SchemaJson& root, const SchemaJson& schema) {
  const SchemaJson* at = &schema;
  for (int hops = 0; hops < 16 && at->is_object() && at->contains("$ref") && (*at)["$ref"].is_string(); ++hops) {
    const SchemaJson* next = FindReferred(root, (*at)["$ref"].get<std::string>());
    if (next == nullptr) break;
    at = next;
  }
  return *at;
}

constexpr std::string_view kTypes[] = {"null", "boolean", "object", "array", "number", "string"};

// The types that a schema lets through, integer as number.
std::vector<std::string_view> Types(const SchemaJson& schema) {
  std::vector<std::string_view> all(std::begin(kTypes), std::end(kTypes));
  if (!schema.is_object()) return all;
  const auto has = [&](std::string_view type) {
    if (schema.contains("const") && !HasType(schema["const"], type)) return false;
    if (schema.contains("enum") && schema["enum"].is_array() &&
        std::none_of(schema["enum"].begin(), schema["enum"].end(), [&](const auto& v) { return HasType(v, type); })) {
      return false;
    }
    if (!schema.contains("type")) return true;
    const SchemaJson& own = schema["type"];
    const auto is = [&](const SchemaJson& t) { return t == type || (t == "integer" && type == "number"); };
    return own.is_array() ? std::any_of(own.begin(), own.end(), is) : is(own);
  };
  std::erase_if(all, [&](std::string_view type) { return !has(type); });
  return all;
}

// The values that a schema lists; null: it lists none.
std::optional<std::vector<SchemaJson>> Listed(const SchemaJson& schema) {
  if (schema.contains("const")) return std::vector<SchemaJson>{schema["const"]};
  if (!schema.contains("enum") || !schema["enum"].is_array()) return std::nullopt;
  return std::vector<SchemaJson>(schema["enum"].begin(), schema["enum"].end());
}

bool Requires(const SchemaJson& schema, const std::string& name) {
  return schema.contains("required") && schema["required"].is_array() &&
         std::find(schema["required"].begin(), schema["required"].end(), name) != schema["required"].end();
}

}  // namespace

bool IsAnnotation(std::string_view keyword) {
  return std::find(std::begin(kAnnotations), std::end(kAnnotations), keyword) != std::end(kAnnotations) ||
         keyword.starts_with("x-");
}

bool OnlyAnnotations(const SchemaJson& schema) {
  for (const auto& [keyword, value] : schema.items()) {
    if (!IsAnnotation(keyword)) return false;
  }
  return true;
}

bool HasType(const SchemaJson& value, std::string_view type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "number") return value.is_number();
  if (type == "integer") {
    return value.is_number_integer() || (value.is_number_float() && std::floor(value.get<double>()) == value);
  }
  return false;
}

const SchemaJson* FindReferred(const SchemaJson& root, const std::string& reference) {
  if (reference == "#") return &root;
  if (!reference.starts_with("#/")) return nullptr;
  const SchemaJson* at = &root;
  for (size_t begin = 2; begin <= reference.size();) {
    const size_t end = std::min(reference.find('/', begin), reference.size());
    std::string name;
    for (size_t i = begin; i < end; ++i) {
      if (reference[i] == '~' && i + 1 < end) {
        name += reference[++i] == '1' ? '/' : '~';
      } else if (reference[i] == '%' && i + 2 < end) {
        name += static_cast<char>(std::strtol(reference.substr(i + 1, 2).c_str(), nullptr, 16));
        i += 2;
      } else {
        name += reference[i];
      }
    }
    if (at->is_object() && at->contains(name)) {
      at = &(*at)[name];
    } else if (at->is_array() && !name.empty() && name.find_first_not_of("0123456789") == std::string::npos &&
               name.size() < 9 && std::stoul(name) < at->size()) {
      at = &(*at)[std::stoul(name)];
    } else {
      return nullptr;
    }
    begin = end + 1;
  }
  return at;
}

std::optional<SchemaJson> MergeSchemas(const SchemaJson& root, const SchemaJson& first, const SchemaJson& second) {
  const SchemaJson &a = Resolved(root, first), &b = Resolved(root, second);
  if (a == true) return b;
  if (b == true) return a;
  if (!a.is_object() || !b.is_object()) return SchemaJson(false);
  // additionalProperties looks at its own schema's properties alone.
  const auto closed = [](const SchemaJson& s) {
    return s.contains("additionalProperties") && s["additionalProperties"] != true;
  };
  if ((closed(a) && b.contains("properties")) || (closed(b) && a.contains("properties"))) return std::nullopt;
  SchemaJson merged = a;
  for (const auto& [keyword, value] : b.items()) {
    if (!merged.contains(keyword) || IsAnnotation(keyword)) {
      if (!merged.contains(keyword)) merged[keyword] = value;
      continue;
    }
    SchemaJson& own = merged[keyword];
    if (own == value) continue;
    if (keyword == "required" && own.is_array() && value.is_array()) {
      for (const auto& name : value) {
        if (std::find(own.begin(), own.end(), name) == own.end()) own.push_back(name);
      }
    } else if (keyword == "properties" && own.is_object() && value.is_object()) {
      for (const auto& [name, schema] : value.items()) {
        if (!own.contains(name)) {
          own[name] = schema;
        } else if (own[name] != schema) {
          std::optional<SchemaJson> both = MergeSchemas(root, own[name], schema);
          if (!both.has_value()) return std::nullopt;
          own[name] = *both;
        }
      }
    } else if (keyword == "type" && own.is_string() && value.is_string()) {
      if (own == "number" && value == "integer") {
        own = value;
      } else if (own != "integer" || value != "number") {
        return SchemaJson(false);
      }
    } else if ((keyword == "minimum" || keyword == "minLength" || keyword == "minItems") && own.is_number() &&
               value.is_number()) {
      if (own < value) own = value;
    } else if ((keyword == "maximum" || keyword == "maxLength" || keyword == "maxItems") && own.is_number() &&
               value.is_number()) {
      if (own > value) own = value;
    } else {
      return std::nullopt;
    }
  }
  return merged;
}

bool AreDisjoint(const SchemaJson& root, const SchemaJson& first, const SchemaJson& second, int depth) {
  if (depth > 8) return false;
  const SchemaJson &a = Resolved(root, first), &b = Resolved(root, second);
  if (a == false || b == false) return true;
  if (!a.is_object() || !b.is_object()) return false;
  std::vector<std::string_view> shared = Types(a);
  const std::vector<std::string_view> other = Types(b);
  std::erase_if(shared,
                [&](std::string_view type) { return std::find(other.begin(), other.end(), type) == other.end(); });
  if (shared.empty()) return true;
  const auto listed_a = Listed(a), listed_b = Listed(b);
  if (listed_a.has_value() && listed_b.has_value()) {
    return std::none_of(listed_a->begin(), listed_a->end(), [&](const SchemaJson& value) {
      return std::find(listed_b->begin(), listed_b->end(), value) != listed_b->end();
    });
  }
  if (shared.size() != 1 || shared[0] != "object" || !a.contains("properties") || !b.contains("properties") ||
      !a["properties"].is_object() || !b["properties"].is_object()) {
    return false;
  }
  for (const auto& [name, schema] : a["properties"].items()) {
    if (b["properties"].contains(name) && Requires(a, name) && Requires(b, name) &&
        AreDisjoint(root, schema, b["properties"][name], depth + 1)) {
      return true;
    }
  }
  return false;
}

}  // namespace duo
