// The parser's half for what stands within a tag. Each reads from the reader's current token on and leaves it behind
// what it read; after an error the trees are not to be used. Pure.
#pragma once

#include "runtime/text/jinja/syntax/ast.h"
#include "runtime/text/jinja/syntax/token_reader.h"

namespace duo::jinja {

// with_choice: whether `a if b else c` may stand there.
NodePtr ParseExpression(TokenReader& in, bool with_choice = true);
// One expression, or several with commas between them as a tuple. until: a name that ends it.
NodePtr ParseTupleOrExpression(TokenReader& in, bool with_choice, const char* until = nullptr);
// What may be assigned to: names, tuples of them and, if attributes, `namespace.name`.
NodePtr ParseTarget(TokenReader& in, bool attributes, const char* until = nullptr);
// `|filter|filter(..)` around nothing yet: the innermost filter's `a` is null. Null if there is none. first: the first
// filter's bar is left out.
NodePtr ParseFilters(TokenReader& in, bool first);

}  // namespace duo::jinja
