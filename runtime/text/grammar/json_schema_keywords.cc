#include "runtime/text/grammar/json_schema_keywords.h"

#include <algorithm>

namespace duo {
namespace {

constexpr std::string_view kKeywords[] = {
    // of objects
    "properties", "required", "additionalProperties",
    // of arrays
    "items", "prefixItems", "additionalItems", "minItems", "maxItems",
    // of strings
    "minLength", "maxLength", "pattern",
    // of numbers
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    // of any value
    "type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"};

}  // namespace

bool IsKnownKeyword(std::string_view keyword, const SchemaJson& value) {
  if (IsAnnotation(keyword)) return true;
  if (std::find(std::begin(kKeywords), std::end(kKeywords), keyword) != std::end(kKeywords)) return true;
  // These ask for nothing.
  if (keyword == "uniqueItems") return value == false;
  if (keyword == "minProperties" || keyword == "minContains") return value == 0;
  if (keyword == "unevaluatedProperties" || keyword == "unevaluatedItems") return value == true;
  if (keyword == "patternProperties" || keyword == "dependentRequired" || keyword == "dependentSchemas") {
    return value.is_object() && value.empty();
  }
  return keyword == "propertyNames" && value == true;
}

bool HasKeywords(const SchemaJson& schema) {
  return std::any_of(std::begin(kKeywords), std::end(kKeywords),
                     [&](std::string_view keyword) { return schema.contains(std::string(keyword)); });
}

}  // namespace duo
