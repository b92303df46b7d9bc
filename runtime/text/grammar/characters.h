// Characters as bytes: sets of code points, and the expressions of one character of a set, as text has it (UTF-8) or as
// a JSON string has it (escaped where it must be). Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/text/grammar/expressions.h"

namespace duo {

// Ranges [first, last] of code points, ascending and apart.
struct CharacterSet {
  struct Range {
    uint32_t first = 0, last = 0;
  };
  std::vector<Range> ranges;

  void Add(uint32_t first, uint32_t last);
  void Add(const CharacterSet& other);
  CharacterSet Complement() const;  // of all code points but surrogates
  bool Has(uint32_t c) const;
  static CharacterSet Any() { return CharacterSet().Complement(); }

 private:
  void Normalize();
};

enum class Spelling { kText, kJsonString };

// One character of the set.
ExprId OneOf(GrammarBuilder& b, const CharacterSet& set, Spelling spelling);
// One character of a JSON string in any spelling, every escape among them.
ExprId AnyJsonCharacter(GrammarBuilder& b);
// What a JSON string's inside is for this text.
std::string JsonEscaped(std::string_view text);

}  // namespace duo
