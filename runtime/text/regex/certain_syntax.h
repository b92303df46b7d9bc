// A regular expression as a program for CertainSearch: the part of Oniguruma's Ruby syntax in which the patterns of
// published tokenizers are written.
// Why: Oniguruma does not say whether a match looked at the text's end. This program is run beside it, and only where
// both find the same match is anything concluded from it.
// What it reads: characters, classes, \p{..}, POSIX brackets, groups, (?i:..) over ASCII letters, alternatives, all
// quantifiers as Ruby has them, (?=..) (?!..) (?>..), look-behind of one character, ^ $ \A \z \b \B. Everything else is
// refused, and so is what could match in ways that depend on more than that (loops over nothing, folds of several
// characters). Character classes are Oniguruma's own tables.
// Ownership: a plain value. Threads: pure functions. Errors: std::nullopt, which costs certainty and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace duo {

struct CharacterSet {
  struct Item {
    char32_t low = 0, high = 0;  // where `type` is negative
    int type = -1;               // of Oniguruma's tables
    bool negated = false;
  };
  std::vector<Item> items;
  bool negated = false;
  bool folded = false;  // ASCII letters stand for all characters that fold to them

  bool Has(char32_t c) const;
};

struct Instruction {
  enum class Op {
    kSet,     // one character of sets[a]
    kSplit,   // goes on at +a, and at +b should that fail
    kJump,    // to +a
    kLook,    // the next a instructions match here; b: do not
    kAtomic,  // the next a instructions match, and are not tried again
    kBehind,  // the character before is of sets[a]; b: is not
    kLineBegin,
    kLineEnd,
    kTextBegin,
    kTextEnd,
    kWordEdge,  // b: none
    kDone,
  };
  Op op = Op::kDone;
  int32_t a = 0, b = 0;
};

struct CertainProgram {
  std::vector<Instruction> code;
  std::vector<CharacterSet> sets;
  int word_type = 0;  // for kWordEdge
};

std::optional<CertainProgram> ParseCertainProgram(std::string_view pattern);

}  // namespace duo
