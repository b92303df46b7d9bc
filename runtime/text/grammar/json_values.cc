#include "runtime/text/grammar/json_values.h"

#include <algorithm>
#include <map>

#include "runtime/text/grammar/json_schema.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {

// A rule of its own, made when it is first used; it may refer to itself.
ExprId JsonValues::Shared(std::optional<RuleId>& rule, ExprId (JsonValues::*make)()) {
  if (!rule.has_value()) {
    rule = b_.NewRule();
    const ExprId body = (this->*make)();
    b_.Define(*rule, body);
  }
  return b_.Rule(*rule);
}

ExprId JsonValues::Blank() { return Shared(blank_, &JsonValues::MakeBlank); }
ExprId JsonValues::AnyValue() { return Shared(value_, &JsonValues::MakeValue); }
ExprId JsonValues::AnyObject() { return Shared(object_, &JsonValues::MakeObject); }
ExprId JsonValues::AnyArray() { return Shared(array_, &JsonValues::MakeArray); }
ExprId JsonValues::AnyString() { return Shared(string_, &JsonValues::MakeString); }
ExprId JsonValues::AnyNumber() { return Shared(number_, &JsonValues::MakeNumber); }
ExprId JsonValues::Character() { return Shared(character_, &JsonValues::MakeCharacter); }

ExprId JsonValues::MakeBlank() {
  ByteSet blanks;
  for (const char c : {' ', '\t', '\n', '\r'}) blanks.set(static_cast<uint8_t>(c));
  return b_.Repeat(b_.Bytes(blanks), 0, kMostBlanks);
}

ExprId JsonValues::MakeCharacter() { return AnyJsonCharacter(b_); }
ExprId JsonValues::MakeString() { return Quoted(b_.Repeat(AnyJsonCharacter(b_), 0, -1)); }

ExprId JsonValues::String(int64_t min, int64_t max) {
  if (min == 0 && max < 0) return AnyString();
  return Quoted(b_.Repeat(Character(), min, max));
}

ExprId JsonValues::AnyInteger() {
  const ExprId digit = b_.Range('0', '9');
  return b_.Sequence({b_.Optional(b_.Literal("-")),
                      b_.Choice({b_.Literal("0"), b_.Sequence({b_.Range('1', '9'), b_.Repeat(digit, 0, -1)})})});
}

ExprId JsonValues::MakeNumber() {
  const ExprId digit = b_.Range('0', '9');
  ByteSet e, sign;
  e.set('e');
  e.set('E');
  sign.set('+');
  sign.set('-');
  const ExprId fraction = b_.Sequence({b_.Literal("."), b_.Repeat(digit, 1, -1)});
  const ExprId exponent = b_.Sequence({b_.Bytes(e), b_.Optional(b_.Bytes(sign)), b_.Repeat(digit, 1, 3)});
  return b_.Sequence({AnyInteger(), b_.Optional(fraction), b_.Optional(exponent)});
}

ExprId JsonValues::MakeValue() {
  return b_.Choice(
      {AnyObject(), AnyArray(), AnyString(), AnyNumber(), b_.Literal("true"), b_.Literal("false"), b_.Literal("null")});
}

ExprId JsonValues::MakeArray() { return Array({}, AnyValue(), 0, -1); }

ExprId JsonValues::MakeObject() {
  const ExprId member = Member(AnyString(), AnyValue());
  const ExprId members = b_.Sequence({member, b_.Repeat(b_.Sequence({Separator(), member}), 0, -1)});
  return b_.Sequence({b_.Literal("{"), Blank(), b_.Optional(b_.Sequence({members, Blank()})), b_.Literal("}")});
}

ExprId JsonValues::Member(ExprId key, ExprId value) {
  return b_.Sequence({key, Blank(), b_.Literal(":"), Blank(), value});
}

ExprId JsonValues::Separator() { return b_.Sequence({Blank(), b_.Literal(","), Blank()}); }

ExprId JsonValues::Array(const std::vector<ExprId>& first, ExprId more, int64_t min, int64_t max) {
  if (max >= 0 && min > max) return b_.Nothing();
  const ExprId separator = Separator();
  ExprId inside;
  const bool some = max != 0 && (!first.empty() || more != b_.Nothing());
  if (!some) {
    if (min > 0) return b_.Nothing();
    inside = b_.Empty();
  } else {
    const ExprId begin = first.empty() ? more : first[0];
    const ExprId rest = Rest(separator, first, 1, more, min, max);
    inside = b_.Sequence({begin, rest, Blank()});
    if (min == 0) inside = b_.Optional(inside);
  }
  return b_.Sequence({b_.Literal("["), Blank(), inside, b_.Literal("]")});
}

// Of the elements from number `at` on.
ExprId JsonValues::Rest(ExprId separator, const std::vector<ExprId>& first, size_t at, ExprId more, int64_t min,
                        int64_t max) {
  const auto have = static_cast<int64_t>(at);
  if (max >= 0 && have >= max) return b_.Empty();
  if (at >= first.size()) {
    return b_.Repeat(b_.Sequence({separator, more}), std::max<int64_t>(0, min - have), max < 0 ? -1 : max - have);
  }
  const ExprId here = b_.Sequence({separator, first[at], Rest(separator, first, at + 1, more, min, max)});
  return min > have ? here : b_.Optional(here);
}

namespace {

// Texts as a tree of code points.
struct TextTree {
  std::map<char32_t, TextTree> next;
  bool end = false;
};

ExprId OtherThan(GrammarBuilder& b, const TextTree& tree, ExprId rest) {
  CharacterSet listed;
  std::vector<ExprId> choices;
  for (const auto& [c, below] : tree.next) {
    listed.Add(c, c);
    CharacterSet one;
    one.Add(c, c);
    choices.push_back(b.Sequence({OneOf(b, one, Spelling::kJsonString), OtherThan(b, below, rest)}));
  }
  choices.push_back(b.Sequence({OneOf(b, listed.Complement(), Spelling::kJsonString), rest}));
  if (!tree.end) choices.push_back(b.Empty());
  return b.Choice(std::move(choices));
}

}  // namespace

ExprId JsonValues::StringOtherThan(const std::vector<std::string>& texts) {
  if (texts.empty()) return AnyString();
  TextTree tree;
  for (const std::string& text : texts) {
    TextTree* at = &tree;
    for (size_t pos = 0; pos < text.size();) at = &at->next[NextCodePoint(text, &pos)];
    at->end = true;
  }
  // Written in one way, so that no other spelling of a listed text passes.
  const ExprId rest = b_.Repeat(OneOf(b_, CharacterSet::Any(), Spelling::kJsonString), 0, -1);
  return Quoted(OtherThan(b_, tree, rest));
}

}  // namespace duo
