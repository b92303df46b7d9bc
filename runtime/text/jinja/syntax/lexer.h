// The lexer: a template's source as tokens.
// What: the text between tags, and within tags names, numbers, strings and operators, with jinja2's white-space rules
// as transformers sets them: a line end after a block tag or comment goes (trim_blocks), blanks before one on its line
// go (lstrip_blocks), `-` takes all white space, `+` keeps it, one line end at the source's end goes. Ownership: tokens
// hold their text; offsets are bytes of the source as Normalise gives it. Errors: the first one, with its offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace duo::jinja {

enum class TokenKind : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  size_t offset = 0;
  std::string text;  // data, a name, an operator; a string's value
  int64_t integer = 0;
  double real = 0;
};

// What could not be read or run, and where.
struct SourceError {
  std::string message;
  size_t offset = 0;
};

// Every line end as \n, and none at the end.
std::string NormaliseLineEnds(std::string_view source);

// source: normalised, valid UTF-8. False: `error` is set.
bool Lex(std::string_view source, std::vector<Token>* tokens, SourceError* error);

// For messages: the line and column of an offset, from 1, columns in characters.
struct Position {
  size_t line = 1, column = 1;
};
Position PositionOf(std::string_view source, size_t offset);

}  // namespace duo::jinja
