// JSON schemas as grammars: what is accepted is JSON text that satisfies the schema.
//
// Supported: type, enum, const, properties, required, additionalProperties, items, prefixItems, minItems, maxItems,
// minLength, maxLength, pattern, minimum, maximum, exclusiveMinimum, exclusiveMaximum, anyOf, allOf, oneOf whose
// branches cannot overlap, $ref within the schema (also to itself), $defs, definitions, true and false. Annotations
// (title, description, default, examples, format, ..) say nothing. Everything else is refused by name and place, as is
// what cannot be said exactly: then an answer never satisfies less than the whole schema. The text: members in any
// order (in the schema's order beyond 60 of them), blanks and line breaks between tokens, at most kMostBlanks in a row;
// keys are written as they are, not in \u; a number with bounds has no exponent; an integer no point. Errors:
// INVALID_ARGUMENT.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/grammar/expressions.h"

namespace duo {

constexpr int64_t kMostBlanks = 40;

absl::StatusOr<ExprId> ParseJsonSchema(GrammarBuilder& b, std::string_view schema);

// Any JSON object.
ExprId AnyJsonObject(GrammarBuilder& b);

}  // namespace duo
