// Schemas as JSON values: what joins two of them, and whether two can share an instance. For anyOf, oneOf and allOf
// beside other keywords. Pure; `root` is what $ref looks into.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace duo {

using SchemaJson = nlohmann::ordered_json;

// Says nothing about an instance: title, description, ..
bool IsAnnotation(std::string_view keyword);
bool OnlyAnnotations(const SchemaJson& schema);
// What a local $ref names; null: nothing.
const SchemaJson* FindReferred(const SchemaJson& root, const std::string& reference);
// A schema that asks for all that both ask for; none where it takes more than putting keywords side by side.
std::optional<SchemaJson> MergeSchemas(const SchemaJson& root, const SchemaJson& a, const SchemaJson& b);
// That no instance satisfies both, where types, constants or a member that both require say so.
bool AreDisjoint(const SchemaJson& root, const SchemaJson& a, const SchemaJson& b, int depth = 0);
// null, boolean, object, array, number, integer or string.
bool HasType(const SchemaJson& value, std::string_view type);

}  // namespace duo
