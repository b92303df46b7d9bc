// Regular expressions as grammars: alternation, groups, classes, the usual escapes, quantifiers of any size. Refused by
// name: look-around, back-references, word boundaries, Unicode properties, possessive and atomic groups, and anchors
// anywhere but at the ends of a top-level alternative. Classes \d \w \s are ASCII's. Errors: INVALID_ARGUMENT with the
// place in the pattern, in bytes.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/grammar/characters.h"

namespace duo {

enum class RegexMatch {
  kWhole,     // the text is the pattern's; ^ and $ at its ends say nothing more
  kSomewhere  // the pattern's is somewhere in the text, at its ends where ^ and $ say so
};

absl::StatusOr<ExprId> ParseRegex(GrammarBuilder& b, std::string_view pattern, RegexMatch match, Spelling spelling);

}  // namespace duo
