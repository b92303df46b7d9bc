// GBNF, the grammar format of llama.cpp: rules `name ::= ...` of literals, classes, groups, alternatives, repeats and
// other rules, beginning with `root`; comments from # to the end of the line. Written from its description. Errors:
// INVALID_ARGUMENT with the place, or the name of a rule that is not there.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/grammar/expressions.h"

namespace duo {

absl::StatusOr<ExprId> ParseGbnf(GrammarBuilder& b, std::string_view text);

}  // namespace duo
