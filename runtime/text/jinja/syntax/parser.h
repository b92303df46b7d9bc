// The parser: tokens as a tree, with jinja2's grammar and transformers' extensions (break, continue, generation).
// Statements that need other templates (include, import, extends, block) or escaping (autoescape) are refused: chat
// templates are alone and are no HTML. Errors: the first one, with its offset. Pure.
#pragma once

#include <string_view>
#include <vector>

#include "runtime/text/jinja/syntax/ast.h"
#include "runtime/text/jinja/syntax/lexer.h"

namespace duo::jinja {

bool ParseTemplate(std::vector<Token> tokens, Nodes* body, SourceError* error);

}  // namespace duo::jinja
