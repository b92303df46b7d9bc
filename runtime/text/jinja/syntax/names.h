// Which variable a name means: resolved once, before a template runs.
// Why: a template's scopes are not those of nested blocks alone. A loop's body sees the outer variable as it was when
// the iteration began, an `if` has no scope, a macro sees its surroundings as they are when it is called, and a name
// that a scope assigns to anywhere is that scope's own from its beginning, so that the caller's variable of that name
// is hidden even before the assignment. All of this follows from the source's order alone, as jinja2 has it. Errors: an
// assignment to `loop` within a loop, an unknown filter or test outside of conditions, break or continue outside of
// loops; with the offset. Pure.
#pragma once

#include "runtime/text/jinja/syntax/ast.h"
#include "runtime/text/jinja/syntax/lexer.h"

namespace duo::jinja {

struct ResolvedTemplate {
  Nodes body;
  Scope scope;
  int slots = 0;  // of the template's own variables
};

// has_filter, has_test: whether the library knows the name.
struct KnownNames {
  bool (*has_filter)(std::string_view name) = nullptr;
  bool (*has_test)(std::string_view name) = nullptr;
};

bool ResolveNames(const KnownNames& known, ResolvedTemplate* resolved, SourceError* error);

}  // namespace duo::jinja
