// PatternReader: what the readers of regular expressions and of GBNF share: a text, a place in it, code points,
// escapes, classes, counts, and errors that name the place. One thread; the text outlives it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/text/grammar/characters.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {

class PatternReader {
 public:
  PatternReader(std::string_view text, std::string_view what) : text_(text), what_(what) {}

  bool done() const { return at_ >= text_.size(); }
  size_t at() const { return at_; }
  void MoveTo(size_t at) { at_ = at; }
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  bool Take(std::string_view word);
  uint32_t TakeCharacter();  // a code point; U+FFFD for what is not UTF-8

  // What a backslash, which has been taken, makes: one character, or a class. `regex`: \d \w \s and their complements.
  std::optional<CharacterSet> TakeEscape(bool regex);
  // [..] behind its bracket.
  std::optional<CharacterSet> TakeClass(bool regex);
  // {n}, {n,} or {n,m} behind its brace; max -1: no end. False: it is none.
  bool TakeCounts(int64_t* min, int64_t* max);
  // branch() once, and again behind each | that follows: what they gave.
  template <typename Branch>
  auto TakeChoices(Branch branch) {
    std::vector<decltype(branch())> choices;
    do choices.push_back(branch());
    while (Take("|"));
    return choices;
  }

  // The first error stays.
  void Fail(std::string_view why);
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  std::optional<uint32_t> TakeHex(int digits);
  bool TakeNumber(int64_t* number);

  std::string_view text_, what_;
  size_t at_ = 0;
  absl::Status status_;
};

}  // namespace duo
