#include "runtime/text/grammar/pattern_reader.h"

#include <algorithm>
#include <cctype>

namespace duo {
namespace {

CharacterSet Digits() {
  CharacterSet set;
  set.Add('0', '9');
  return set;
}
CharacterSet Words() {
  CharacterSet set = Digits();
  set.Add('a', 'z');
  set.Add('A', 'Z');
  set.Add('_', '_');
  return set;
}
CharacterSet Spaces() {
  CharacterSet set;
  set.Add('\t', '\r');
  set.Add(' ', ' ');
  return set;
}
CharacterSet One(uint32_t c) {
  CharacterSet set;
  set.Add(c, c);
  return set;
}
// The one character of a set; none where it has more.
std::optional<uint32_t> Only(const CharacterSet& set) {
  if (set.ranges.size() != 1 || set.ranges[0].first != set.ranges[0].last) return std::nullopt;
  return set.ranges[0].first;
}

}  // namespace

void PatternReader::Fail(std::string_view why) {
  if (!status_.ok()) return;
  status_ = absl::InvalidArgumentError(absl::StrCat(std::string(what_), ", byte ", at_, ": ", std::string(why)));
  at_ = text_.size();
}

bool PatternReader::Take(std::string_view word) {
  if (!text_.substr(at_).starts_with(word)) return false;
  at_ += word.size();
  return true;
}

uint32_t PatternReader::TakeCharacter() { return NextCodePoint(text_, &at_); }

std::optional<uint32_t> PatternReader::TakeHex(int digits) {
  uint32_t value = 0;
  for (int i = 0; i < digits; ++i) {
    const char c = peek();
    if (std::isxdigit(static_cast<unsigned char>(c)) == 0) {
      Fail(absl::StrCat(digits, " hexadecimal digits were expected"));
      return std::nullopt;
    }
    value = value * 16 + static_cast<uint32_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    ++at_;
  }
  if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) {
    Fail("that is no character");
    return std::nullopt;
  }
  return value;
}

std::optional<CharacterSet> PatternReader::TakeEscape(bool regex) {
  if (done()) {
    Fail("a backslash ends the pattern");
    return std::nullopt;
  }
  const uint32_t c = TakeCharacter();
  const auto hex = [&](int digits) -> std::optional<CharacterSet> {
    const std::optional<uint32_t> value = TakeHex(digits);
    if (!value.has_value()) return std::nullopt;
    return One(*value);
  };
  switch (c) {
    case 'n':
      return One('\n');
    case 'r':
      return One('\r');
    case 't':
      return One('\t');
    case 'x':
      return hex(2);
    case 'u':
      return hex(4);
    default:
      break;
  }
  if (regex) {
    switch (c) {
      case 'd':
        return Digits();
      case 'D':
        return Digits().Complement();
      case 'w':
        return Words();
      case 'W':
        return Words().Complement();
      case 's':
        return Spaces();
      case 'S':
        return Spaces().Complement();
      case 'f':
        return One('\f');
      case 'v':
        return One('\v');
      case '0':
        return One(0);
      default:
        break;
    }
  } else if (c == 'U') {
    return hex(8);
  }
  if (c < 0x80 && std::isalnum(static_cast<int>(c)) != 0) {
    Fail(absl::StrCat("\\", std::string(1, static_cast<char>(c)), " is not supported"));
    return std::nullopt;
  }
  return One(c);
}

std::optional<CharacterSet> PatternReader::TakeClass(bool regex) {
  const bool negated = Take("^");
  CharacterSet set;  // in the order of the pattern until all of it is there
  while (!Take("]")) {
    if (done()) {
      Fail("a [ has no ]");
      return std::nullopt;
    }
    if (peek() == '[' && (peek(1) == ':' || peek(1) == '.' || peek(1) == '=')) {
      Fail("POSIX classes are not supported");
      return std::nullopt;
    }
    const auto item = [&]() -> std::optional<CharacterSet> {
      return Take("\\") ? TakeEscape(regex) : std::optional<CharacterSet>(One(TakeCharacter()));
    };
    // \b is a backspace in a class.
    const std::optional<CharacterSet> from = regex && Take("\\b") ? One('\b') : item();
    if (!from.has_value()) return std::nullopt;
    if (peek() != '-' || peek(1) == ']' || peek(1) == '\0') {
      set.ranges.insert(set.ranges.end(), from->ranges.begin(), from->ranges.end());
      continue;
    }
    const size_t dash = at_++;
    const std::optional<CharacterSet> to = item();
    if (!to.has_value()) return std::nullopt;
    const std::optional<uint32_t> first_c = Only(*from), last_c = Only(*to);
    if (!first_c.has_value() || !last_c.has_value() || *first_c > *last_c) {
      at_ = dash;
      Fail("a range of a class needs two characters in their order");
      return std::nullopt;
    }
    set.ranges.push_back({*first_c, *last_c});
  }
  set.Add(CharacterSet());
  return negated ? set.Complement() : set;
}

bool PatternReader::TakeNumber(int64_t* number) {
  const size_t before = at_;
  *number = 0;
  for (; std::isdigit(static_cast<unsigned char>(peek())) != 0; ++at_) {
    *number = std::min<int64_t>(*number * 10 + (peek() - '0'), int64_t{1} << 40);
  }
  return at_ > before;
}

bool PatternReader::TakeCounts(int64_t* min, int64_t* max) {
  const size_t before = at_;
  const bool some = TakeNumber(min);
  if (!some) *min = 0;
  *max = *min;
  if (Take(",") && !TakeNumber(max)) *max = -1;
  if (at_ == before || !Take("}")) {
    at_ = before;
    return false;
  }
  if (*max >= 0 && *min > *max) Fail("the counts of a repeat are in the wrong order");
  constexpr int64_t kMost = int64_t{1} << 31;
  if (*min > kMost || *max > kMost) Fail(absl::StrCat("a repeat's count is at most ", kMost));
  return ok();
}

}  // namespace duo
