#include "runtime/text/grammar/regex_syntax.h"

#include <utility>

#include "runtime/text/grammar/pattern_reader.h"

namespace duo {
namespace {

class RegexParser {
 public:
  RegexParser(GrammarBuilder& b, std::string_view pattern, RegexMatch match, Spelling spelling)
      : b_(b), in_(pattern, "the pattern"), match_(match), spelling_(spelling) {}

  absl::StatusOr<ExprId> Parse() {
    std::vector<ExprId> choices = in_.TakeChoices([&] {
      const bool anchored = in_.Take("^");
      ExprId branch = Branch(0);
      const bool ends = in_.Take("$");
      if (match_ == RegexMatch::kSomewhere) {
        if (!anchored) branch = b_.Sequence({Anything(), branch});
        if (!ends) branch = b_.Sequence({branch, Anything()});
      }
      return branch;
    });
    if (in_.ok() && !in_.done()) {
      in_.Fail(in_.peek() == ')' ? "a ) has no (" : "an anchor is only supported at the ends of the whole pattern");
    }
    if (!in_.ok()) return in_.status();
    if (!b_.status().ok()) return b_.status();
    return b_.Choice(std::move(choices));
  }

 private:
  ExprId Anything() { return b_.Repeat(OneOf(b_, CharacterSet::Any(), spelling_), 0, -1); }

  ExprId Choices(int depth) {
    return b_.Choice(in_.TakeChoices([&] { return Branch(depth); }));
  }

  ExprId Branch(int depth) {
    std::vector<ExprId> parts;
    while (in_.ok() && !in_.done() && b_.Spend()) {
      const char c = in_.peek();
      if (c == '|' || c == ')' || c == '$') break;
      if (c == '^') {
        in_.Fail("an anchor is only supported at the ends of the whole pattern");
        break;
      }
      parts.push_back(Quantified(depth));
    }
    return b_.Sequence(std::move(parts));
  }

  ExprId Quantified(int depth) {
    ExprId part = Atom(depth);
    int quantifiers = 0;
    while (in_.ok()) {
      int64_t min = 0, max = -1;
      const size_t before = in_.at();
      if (in_.Take("*")) {
      } else if (in_.Take("+")) {
        min = 1;
      } else if (in_.Take("?")) {
        max = 1;
      } else if (!in_.Take("{") || !in_.TakeCounts(&min, &max)) {
        if (in_.ok()) in_.MoveTo(before);  // a brace that is none of these is a character
        break;
      }
      if (++quantifiers > b_.limits().depth) in_.Fail("too many quantifiers in a row");
      if (in_.Take("?")) {
      }  // as few as possible is the same language
      else if (in_.peek() == '+') {
        in_.Fail("possessive quantifiers are not supported");
      }
      part = b_.Repeat(part, min, max);
    }
    return part;
  }

  ExprId Atom(int depth) {
    if (in_.Take("(")) return Group(depth + 1);
    std::optional<CharacterSet> set;
    if (in_.Take("[")) {
      set = in_.TakeClass(true);
    } else if (in_.Take(".")) {
      set.emplace();
      set->Add('\n', '\n');
      set = set->Complement();
    } else if (in_.Take("\\")) {
      if (in_.peek() == 'b' || in_.peek() == 'B')
        in_.Fail("word boundaries are not supported");
      else if (in_.peek() >= '1' && in_.peek() <= '9')
        in_.Fail("back-references are not supported");
      else if (in_.peek() == 'p' || in_.peek() == 'P')
        in_.Fail("Unicode properties are not supported");
      else
        set = in_.TakeEscape(true);
    } else if (in_.peek() == '*' || in_.peek() == '+' || in_.peek() == '?') {
      in_.Fail("a quantifier has nothing before it");
    } else {
      const uint32_t c = in_.TakeCharacter();
      set.emplace();
      set->Add(c, c);
    }
    if (!set.has_value() || !in_.ok()) return b_.Nothing();
    return OneOf(b_, *set, spelling_);
  }

  // Behind its parenthesis.
  ExprId Group(int depth) {
    if (depth > b_.limits().depth) {
      in_.Fail(absl::StrCat("groups are nested more than ", b_.limits().depth, " deep"));
      return b_.Nothing();
    }
    if (in_.Take("?")) {
      if (in_.peek() == '=' || in_.peek() == '!' || (in_.peek() == '<' && (in_.peek(1) == '=' || in_.peek(1) == '!'))) {
        in_.Fail("look-around is not supported");
      } else if (in_.Take("P<") || in_.Take("<")) {
        while (!in_.done() && !in_.Take(">")) in_.TakeCharacter();
      } else if (!in_.Take(":")) {
        in_.Fail("this kind of group is not supported");
      }
    }
    const ExprId inside = Choices(depth);
    if (in_.ok() && !in_.Take(")")) {
      in_.Fail(in_.peek() == '$' ? "an anchor is only supported at the ends of the whole pattern" : "a ( has no )");
    }
    return inside;
  }

  GrammarBuilder& b_;
  PatternReader in_;
  RegexMatch match_;
  Spelling spelling_;
};

}  // namespace

absl::StatusOr<ExprId> ParseRegex(GrammarBuilder& b, std::string_view pattern, RegexMatch match, Spelling spelling) {
  if (pattern.size() > b.limits().bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the pattern has ", pattern.size(), " bytes, at most ", b.limits().bytes, " are read"));
  }
  if (!IsValidUtf8(pattern)) return absl::InvalidArgumentError("the pattern is not UTF-8");
  return RegexParser(b, pattern, match, spelling).Parse();
}

}  // namespace duo
