// The expressions of JSON text that schemas are made of: blanks, strings, numbers within bounds, any value.
// One builder's; rules that many places share are made once. One thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/grammar/characters.h"

namespace duo {

// A bound of a number, in decimal digits: 12.5 is {false, "12", "5"}.
struct DecimalBound {
  bool negative = false;
  std::string whole = "0", fraction;  // no leading zeros but of 0 itself; no trailing ones
  bool exclusive = false;
  bool zero() const { return whole == "0" && fraction.empty(); }
};

class JsonValues {
 public:
  explicit JsonValues(GrammarBuilder& builder) : b_(builder) {}

  ExprId Blank();
  ExprId AnyValue();
  ExprId AnyObject();
  ExprId AnyArray();
  ExprId AnyString();
  ExprId AnyNumber();
  ExprId AnyInteger();
  ExprId String(int64_t min, int64_t max);  // of so many characters; max -1: no end
  ExprId Quoted(ExprId inside) { return b_.Sequence({b_.Literal("\""), inside, b_.Literal("\"")}); }
  // A string that is none of these texts.
  ExprId StringOtherThan(const std::vector<std::string>& texts);
  ExprId Number(const std::optional<DecimalBound>& low, const std::optional<DecimalBound>& high, bool integer);
  // Elements with commas between them, in brackets: first these, then `more` to make min to max in all.
  ExprId Array(const std::vector<ExprId>& first, ExprId more, int64_t min, int64_t max);
  ExprId Member(ExprId key, ExprId value);
  ExprId Separator();  // a comma with its blanks

 private:
  ExprId Shared(std::optional<RuleId>& rule, ExprId (JsonValues::*make)());
  ExprId MakeBlank();
  ExprId MakeValue();
  ExprId MakeObject();
  ExprId MakeArray();
  ExprId MakeString();
  ExprId MakeNumber();
  ExprId MakeCharacter();
  ExprId Character();
  ExprId Rest(ExprId separator, const std::vector<ExprId>& first, size_t at, ExprId more, int64_t min, int64_t max);

  GrammarBuilder& b_;
  std::optional<RuleId> blank_, value_, object_, array_, string_, number_, character_;
};

}  // namespace duo
