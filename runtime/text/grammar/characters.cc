#include "runtime/text/grammar/characters.h"

#include <algorithm>
#include <utility>

namespace duo {
namespace {

constexpr uint32_t kLast = 0x10ffff, kSurrogates = 0xd800, kBehindSurrogates = 0xe000;

int Utf8(uint32_t c, uint8_t* bytes) {
  if (c < 0x80) {
    bytes[0] = static_cast<uint8_t>(c);
    return 1;
  }
  const int count = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (int i = count - 1; i > 0; --i, c >>= 6) bytes[i] = static_cast<uint8_t>(0x80 | (c & 0x3f));
  bytes[0] = static_cast<uint8_t>((count == 2 ? 0xc0 : count == 3 ? 0xe0 : 0xf0) | c);
  return count;
}

// [first, last] of one length, cut until every byte is a range of its own.
void AddUtf8(GrammarBuilder& b, uint32_t first, uint32_t last, std::vector<ExprId>* choices) {
  for (int bits : {6, 12, 18}) {  // where the low bytes do not run through all their values
    const uint32_t low = (uint32_t{1} << bits) - 1;
    if ((first & ~low) == (last & ~low)) break;
    if ((first & low) != 0) {
      AddUtf8(b, first, first | low, choices);
      return AddUtf8(b, (first | low) + 1, last, choices);
    }
    if ((last & low) != low) {
      AddUtf8(b, first, (last & ~low) - 1, choices);
      return AddUtf8(b, last & ~low, last, choices);
    }
  }
  uint8_t from[4], to[4];
  const int count = Utf8(first, from);
  Utf8(last, to);
  std::vector<ExprId> bytes;
  for (int i = 0; i < count; ++i) bytes.push_back(b.Range(from[i], to[i]));
  choices->push_back(b.Sequence(std::move(bytes)));
}

ExprId AsText(GrammarBuilder& b, const CharacterSet& set) {
  ByteSet ascii;
  std::vector<ExprId> choices;
  constexpr uint32_t kBounds[] = {0, 0x80, 0x800, kSurrogates, kBehindSurrogates, 0x10000, kLast + 1};
  for (const CharacterSet::Range& range : set.ranges) {
    for (int length = 0; length + 1 < 7; ++length) {
      if (length == 3) continue;  // surrogates
      const uint32_t first = std::max(range.first, kBounds[length]),
                     last = std::min(range.last, kBounds[length + 1] - 1);
      if (first > last) continue;
      if (length > 0) {
        AddUtf8(b, first, last, &choices);
        continue;
      }
      for (uint32_t c = first; c <= last; ++c) ascii.set(c);
    }
  }
  choices.push_back(b.Bytes(ascii));
  return b.Choice(std::move(choices));
}

constexpr std::pair<char, char> kShort[] = {{'"', '"'},  {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'},
                                            {'\n', 'n'}, {'\r', 'r'},  {'\t', 't'}};

constexpr char kHex[] = "0123456789abcdef";

ExprId HexDigit(GrammarBuilder& b, std::string_view digits) {
  ByteSet set;
  for (const char digit : digits) {
    set.set(static_cast<uint8_t>(digit));
    if (digit >= 'a' && digit <= 'f') set.set(static_cast<uint8_t>(digit - 'a' + 'A'));
  }
  return b.Bytes(set);
}

}  // namespace

void CharacterSet::Normalize() {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.first < b.first; });
  std::vector<Range> joined;
  for (const Range& range : ranges) {
    if (!joined.empty() && range.first <= joined.back().last + 1) {
      joined.back().last = std::max(joined.back().last, range.last);
    } else {
      joined.push_back(range);
    }
  }
  ranges = std::move(joined);
}

void CharacterSet::Add(uint32_t first, uint32_t last) {
  ranges.push_back({first, std::min(last, kLast)});
  Normalize();
}

void CharacterSet::Add(const CharacterSet& other) {
  ranges.insert(ranges.end(), other.ranges.begin(), other.ranges.end());
  Normalize();
}

CharacterSet CharacterSet::Complement() const {
  CharacterSet with = *this;
  with.Add(kSurrogates, kBehindSurrogates - 1);
  CharacterSet rest;
  uint32_t next = 0;
  for (const Range& range : with.ranges) {
    if (range.first > next) rest.ranges.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLast) rest.ranges.push_back({next, kLast});
  return rest;
}

bool CharacterSet::Has(uint32_t c) const {
  return std::any_of(ranges.begin(), ranges.end(), [c](const Range& r) { return r.first <= c && c <= r.last; });
}

ExprId OneOf(GrammarBuilder& b, const CharacterSet& set, Spelling spelling) {
  if (spelling == Spelling::kText) return AsText(b, set);
  CharacterSet escaped;
  escaped.Add(0, 0x1f);
  escaped.Add('"', '"');
  escaped.Add('\\', '\\');
  CharacterSet plain = set.Complement();  // what is neither in the set nor written as it is
  plain.Add(escaped);
  std::vector<ExprId> choices = {AsText(b, plain.Complement())};
  ByteSet letters;
  for (const auto& [c, letter] : kShort) {
    if (set.Has(static_cast<uint8_t>(c))) letters.set(static_cast<uint8_t>(letter));
  }
  choices.push_back(b.Sequence({b.Literal("\\"), b.Bytes(letters)}));
  for (uint32_t c = 0; c < 0x20; ++c) {
    if (!set.Has(c)) continue;
    choices.push_back(b.Sequence({b.Literal(c < 16 ? "\\u000" : "\\u001"), HexDigit(b, {&kHex[c % 16], 1})}));
  }
  return b.Choice(std::move(choices));
}

ExprId AnyJsonCharacter(GrammarBuilder& b) {
  CharacterSet plain;
  plain.Add(0, 0x1f);
  plain.Add('"', '"');
  plain.Add('\\', '\\');
  ByteSet letters;
  for (const char letter : {'"', '\\', '/', 'b', 'f', 'n', 'r', 't'}) letters.set(static_cast<uint8_t>(letter));
  const ExprId any = HexDigit(b, kHex);
  // A code unit that is no surrogate, or a pair of them.
  const ExprId unit = b.Choice({b.Sequence({HexDigit(b, "0123456789abcef"), any, any, any}),
                                b.Sequence({HexDigit(b, "d"), HexDigit(b, "01234567"), any, any})});
  const ExprId pair = b.Sequence({HexDigit(b, "d"), HexDigit(b, "89ab"), any, any, b.Literal("\\u"), HexDigit(b, "d"),
                                  HexDigit(b, "cdef"), any, any});
  const ExprId escape =
      b.Sequence({b.Literal("\\"), b.Choice({b.Bytes(letters), b.Sequence({b.Literal("u"), b.Choice({unit, pair})})})});
  return b.Choice({AsText(b, plain.Complement()), escape});
}

std::string JsonEscaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto* found = std::find_if(std::begin(kShort), std::end(kShort), [c](const auto& s) { return s.first == c; });
    if (found != std::end(kShort)) {
      out += {'\\', found->second};
    } else if (static_cast<uint8_t>(c) < 0x20) {
      out += c < 16 ? "\\u000" : "\\u001";
      out += kHex[c % 16];
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace duo
