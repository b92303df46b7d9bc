#include "runtime/text/regex/certain_syntax.h"

#include <oniguruma.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

constexpr size_t kMostInstructions = 20'000;
constexpr int kMostRepeats = 1000;
constexpr int kDeepest = 50;

// ASCII letters, and the two characters besides that fold to one.
char32_t Fold(char32_t c) {
  if (c >= 'A' && c <= 'Z') return c + ('a' - 'A');
  if (c == 0x17F) return 's';
  if (c == 0x212A) return 'k';
  return c;
}

bool IsAsciiLetter(char32_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

using Code = std::vector<Instruction>;

struct Fragment {
  Code code;
  size_t least = 0;  // characters of a match
};

// One pattern's parse. Every method returns false, or nullopt, for what is not read.
class Parser {
 public:
  explicit Parser(std::string_view pattern) : text_(pattern) {}

  std::optional<CertainProgram> Parse() {
    if (text_.starts_with("(?i)")) {
      folded_ = true;
      at_ = 4;
    }
    Fragment all;
    if (!Alternatives(0, &all) || at_ != text_.size()) return std::nullopt;
    all.code.push_back({Instruction::Op::kDone, 0, 0});
    program_.code = std::move(all.code);
    program_.word_type = ONIGENC_CTYPE_WORD;
    return std::move(program_);
  }

 private:
  using Op = Instruction::Op;

  bool Take(std::string_view words) {
    if (!text_.substr(at_).starts_with(words)) return false;
    at_ += words.size();
    return true;
  }
  bool AtEnd() const { return at_ >= text_.size(); }
  char Peek() const { return AtEnd() ? '\0' : text_[at_]; }

  static void Append(const Code& more, Code* code) { code->insert(code->end(), more.begin(), more.end()); }

  int32_t Add(CharacterSet set) {
    program_.sets.push_back(std::move(set));
    return static_cast<int32_t>(program_.sets.size()) - 1;
  }

  bool Alternatives(int depth, Fragment* out) {
    if (depth > kDeepest) return false;
    std::vector<Fragment> list;
    do {
      Fragment one;
      if (!Sequence(depth, &one)) return false;
      list.push_back(std::move(one));
    } while (Take("|"));
    *out = std::move(list.back());
    list.pop_back();
    for (; !list.empty(); list.pop_back()) {
      Fragment& first = list.back();
      Code code{{Op::kSplit, 1, static_cast<int32_t>(first.code.size()) + 2}};
      Append(first.code, &code);
      code.push_back({Op::kJump, static_cast<int32_t>(out->code.size()) + 1, 0});
      Append(out->code, &code);
      if (code.size() > kMostInstructions) return false;
      *out = {std::move(code), std::min(first.least, out->least)};
    }
    return true;
  }

  bool Sequence(int depth, Fragment* out) {
    before_ = 0;
    while (!AtEnd() && Peek() != '|' && Peek() != ')') {
      Fragment one;
      bool repeatable = true;
      if (!Atom(depth, &one, &repeatable) || !Quantifiers(repeatable, &one)) return false;
      Append(one.code, &out->code);
      out->least += one.least;
      if (out->code.size() > kMostInstructions) return false;
    }
    return true;
  }

  bool Group(int depth, Fragment* out, bool* repeatable) {
    const bool folded = folded_;
    Op op = Op::kDone;
    int32_t negated = 0;
    bool behind = false;
    if (Take("?:")) {
    } else if (Take("?i:")) {
      folded_ = true;
    } else if (Take("?=")) {
      op = Op::kLook;
    } else if (Take("?!")) {
      op = Op::kLook, negated = 1;
    } else if (Take("?>")) {
      op = Op::kAtomic;
    } else if (Take("?<=")) {
      behind = true;
    } else if (Take("?<!")) {
      behind = true, negated = 1;
    } else if (Peek() == '?') {
      return false;
    }
    Fragment inner;
    if (!Alternatives(depth + 1, &inner) || !Take(")")) return false;
    folded_ = folded;
    before_ = 0;
    if (behind) {
      if (inner.code.size() != 1 || inner.code[0].op != Op::kSet) return false;
      out->code.push_back({Op::kBehind, inner.code[0].a, negated});
      *repeatable = false;
    } else if (op == Op::kDone) {
      *out = std::move(inner);
    } else {
      *out = Enclosed(op, negated, inner);
      *repeatable = op == Op::kAtomic;
    }
    return true;
  }

  static Fragment Enclosed(Op op, int32_t negated, const Fragment& inner) {
    Fragment out;
    out.code.push_back({op, static_cast<int32_t>(inner.code.size()) + 1, negated});
    Append(inner.code, &out.code);
    out.code.push_back({Op::kDone, 0, 0});
    out.least = op == Op::kAtomic ? inner.least : 0;
    return out;
  }

  bool Atom(int depth, Fragment* out, bool* repeatable) {
    const char c = Peek();
    if (c == '(') {
      ++at_;
      return Group(depth, out, repeatable);
    }
    if (c == '*' || c == '+' || c == '?' || c == '{') return false;
    if (c == '^' || c == '$') {
      ++at_;
      *repeatable = false;
      out->code.push_back({c == '^' ? Op::kLineBegin : Op::kLineEnd, 0, 0});
      return true;
    }
    if (c == '\\' && at_ + 1 < text_.size()) {
      const std::pair<char, Instruction> edges[] = {{'A', {Op::kTextBegin, 0, 0}},
                                                    {'z', {Op::kTextEnd, 0, 0}},
                                                    {'b', {Op::kWordEdge, 0, 0}},
                                                    {'B', {Op::kWordEdge, 0, 1}}};
      for (const auto& [letter, instruction] : edges) {
        if (text_[at_ + 1] != letter) continue;
        at_ += 2;
        *repeatable = false;
        out->code.push_back(instruction);
        return true;
      }
    }
    CharacterSet set;
    if (c == '[') {
      ++at_;
      if (!Class(&set)) return false;
      before_ = 0;
    } else if (c == '.') {
      ++at_;
      set.items.push_back({'\n', '\n', -1, false});
      set.negated = true;
      before_ = 0;
    } else {
      char32_t single = 0;
      if (!Member(&set, &single)) return false;
      if (folded_ && (single == 0 || single >= 0x80)) return false;
      if (folded_ && IsAsciiLetter(single)) {
        // Two letters may fold to one character, as ss to sharp s.
        const std::pair<char32_t, char32_t> joined[] = {{'f', 'f'}, {'f', 'i'}, {'f', 'l'}, {'s', 't'}, {'s', 's'}};
        const std::pair<char32_t, char32_t> pair{before_, Fold(single)};
        if (std::find(std::begin(joined), std::end(joined), pair) != std::end(joined)) return false;
        set.folded = true;
        before_ = Fold(single);
      } else {
        before_ = 0;
      }
    }
    out->code.push_back({Op::kSet, Add(std::move(set)), 0});
    out->least = 1;
    return true;
  }

  // A character, or an escape for one or several. *single: the character, or 0.
  bool Member(CharacterSet* set, char32_t* single) {
    *single = 0;
    if (AtEnd()) return false;
    if (Peek() != '\\') {
      const char32_t c = NextCodePoint(text_, &at_);
      set->items.push_back({c, c, -1, false});
      *single = c;
      return c != 0;
    }
    if (++at_ >= text_.size()) return false;
    const char letter = text_[at_++];
    const std::pair<char, int> types[] = {
        {'s', ONIGENC_CTYPE_SPACE}, {'d', ONIGENC_CTYPE_DIGIT}, {'w', ONIGENC_CTYPE_WORD}, {'h', ONIGENC_CTYPE_XDIGIT}};
    for (const auto& [name, type] : types) {
      if (letter != name && letter != name - 'a' + 'A') continue;
      set->items.push_back({0, 0, type, letter != name});
      return true;
    }
    if ((letter == 'p' || letter == 'P') && Take("{")) {
      const size_t close = text_.find('}', at_);
      if (close == std::string_view::npos) return false;
      std::string_view name = text_.substr(at_, close - at_);
      at_ = close + 1;
      bool negated = letter == 'P';
      if (name.starts_with("^")) {
        negated = !negated;
        name.remove_prefix(1);
      }
      return Type(name, negated, set);
    }
    const std::pair<char, char32_t> escapes[] = {{'n', '\n'}, {'r', '\r'}, {'t', '\t'},  {'f', '\f'},
                                                 {'v', '\v'}, {'a', '\a'}, {'e', '\x1b'}};
    for (const auto& [name, c] : escapes) {
      if (letter != name) continue;
      set->items.push_back({c, c, -1, false});
      *single = c;
      return true;
    }
    char32_t c = static_cast<unsigned char>(letter);
    if (letter == 'u') {
      if (!Hex(4, 4, &c)) return false;
    } else if (letter == 'x') {
      const bool braces = Take("{");
      if (!Hex(1, braces ? 8 : 2, &c) || (braces ? !Take("}") : c >= 0x80)) return false;
    } else if (c >= 0x80 || IsAsciiLetter(c) || (c >= '0' && c <= '9')) {
      return false;
    }
    if (c == 0 || c > 0x10FFFF) return false;
    set->items.push_back({c, c, -1, false});
    *single = c;
    return true;
  }

  bool Hex(size_t least, size_t most, char32_t* value) {
    *value = 0;
    size_t digits = 0;
    for (; digits < most && !AtEnd(); ++digits, ++at_) {
      const size_t digit = std::string_view("0123456789abcdef").find(static_cast<char>(Peek() | 0x20));
      if (digit == std::string_view::npos || Peek() < '0') break;
      *value = *value * 16 + static_cast<char32_t>(digit);
    }
    return digits >= least;
  }

  static bool Type(std::string_view name, bool negated, CharacterSet* set) {
    std::string bytes(name);
    auto* begin = reinterpret_cast<OnigUChar*>(bytes.data());
    const int type = ONIGENC_PROPERTY_NAME_TO_CTYPE(ONIG_ENCODING_UTF8, begin, begin + bytes.size());
    if (type < 0) return false;
    set->items.push_back({0, 0, type, negated});
    return true;
  }

  // Behind its bracket.
  bool Class(CharacterSet* set) {
    set->negated = Take("^");
    if (Peek() == ']') return false;
    while (!Take("]")) {
      if (AtEnd() || Take("&&")) return false;
      if (Peek() == '[') {
        if (!Take("[:")) return false;
        const bool negated = Take("^");
        const size_t close = text_.find(":]", at_);
        if (close == std::string_view::npos || !Type(text_.substr(at_, close - at_), negated, set)) return false;
        at_ = close + 2;
        continue;
      }
      char32_t low = 0, high = 0;
      if (!Member(set, &low)) return false;
      const bool range = Peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']';
      if (!range) continue;
      ++at_;
      if (low == 0 || Peek() == '[' || !Member(set, &high) || high < low) return false;
      set->items.pop_back();
      set->items.back().high = high;
    }
    if (!folded_) return true;
    set->folded = true;
    return !set->negated && std::all_of(set->items.begin(), set->items.end(), [](const CharacterSet::Item& item) {
      return item.type < 0 && item.low == item.high && item.low < 0x80;
    });
  }

  // {n}, {n,}, {n,m} and {,m}; *most is negative without a bound.
  bool Interval(int* least, int* most) {
    const auto number = [this](int* value) {
      const size_t begin = at_;
      *value = 0;
      for (; Peek() >= '0' && Peek() <= '9' && *value <= kMostRepeats; ++at_) *value = *value * 10 + (Peek() - '0');
      return at_ > begin;
    };
    const bool begins = number(least);
    if (!Take(",")) {
      *most = *least;
      return begins && Take("}") && *most <= kMostRepeats;
    }
    const bool ends = number(most);
    if (!ends) *most = -1;
    return (begins || ends) && Take("}") && *least <= kMostRepeats && *most <= kMostRepeats &&
           (!ends || *least <= *most);
  }

  bool Quantifiers(bool repeatable, Fragment* atom) {
    for (int count = 0;; ++count) {
      int least = 0, most = -1;
      const bool interval = Peek() == '{';
      if (Take("{")) {
        if (!Interval(&least, &most)) return false;
      } else if (Take("?")) {
        most = 1;
      } else if (Take("+")) {
        least = 1;
      } else if (!Take("*")) {
        return true;
      }
      // What follows an interval is a quantifier of its own, but for the ? that makes {n,m} lazy and {n} optional.
      const bool lazy = Peek() == '?' && (!interval || least != most);
      if (lazy) ++at_;
      const bool possessive = !interval && !lazy && Take("+");
      // Oniguruma joins some quantifiers on quantifiers to one.
      if (!repeatable || atom->least == 0 || (count > 0 && !interval && least != 1)) return false;
      if (!Repeat(least, most, lazy, atom)) return false;
      if (possessive) *atom = Enclosed(Op::kAtomic, 0, *atom);
    }
  }

  bool Repeat(int least, int most, bool lazy, Fragment* atom) {
    const Code body = std::move(atom->code);
    const int32_t size = static_cast<int32_t>(body.size());
    if (body.size() * (static_cast<size_t>(std::max(least, most)) + 2) > kMostInstructions) return false;
    const auto split = [lazy](int32_t in, int32_t out) {
      return Instruction{Op::kSplit, lazy ? out : in, lazy ? in : out};
    };
    Code code;
    for (int i = 0; i < least; ++i) Append(body, &code);
    if (most < 0) {
      code.push_back(split(1, size + 2));
      Append(body, &code);
      code.push_back({Op::kJump, -size - 1, 0});
    }
    for (int i = least; i < most; ++i) {
      code.push_back(split(1, (most - i) * (size + 1)));
      Append(body, &code);
    }
    *atom = {std::move(code), atom->least * static_cast<size_t>(least)};
    return true;
  }

  const std::string_view text_;
  size_t at_ = 0;
  bool folded_ = false;
  char32_t before_ = 0;  // the folded letter that was read last, in a row of them
  CertainProgram program_;
};

}  // namespace

bool CharacterSet::Has(char32_t c) const {
  const bool has = std::any_of(items.begin(), items.end(), [this, c](const Item& item) {
    if (item.type >= 0) return (ONIGENC_IS_CODE_CTYPE(ONIG_ENCODING_UTF8, c, item.type) != 0) != item.negated;
    return folded ? Fold(c) == Fold(item.low) : c >= item.low && c <= item.high;
  });
  return has != negated;
}

std::optional<CertainProgram> ParseCertainProgram(std::string_view pattern) { return Parser(pattern).Parse(); }

}  // namespace duo
