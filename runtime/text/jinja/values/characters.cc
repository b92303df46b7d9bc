#include "runtime/text/jinja/values/characters.h"

#include <unicode/uchar.h>
#include <unicode/ustring.h>

#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {
namespace {

bool HasCategory(char32_t c, uint32_t mask) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & mask) != 0; }

// Letters may become several ("\u00DF" is "SS"), so a character is mapped as a string of its own.
void AppendMapped(char32_t c, Case to, std::string* out) {
  if (c < 0x80) {
    const bool upper = to == Case::kUpper || to == Case::kTitle;
    char a = static_cast<char>(c);
    if (upper && a >= 'a' && a <= 'z') a = static_cast<char>(a - 32);
    if (!upper && a >= 'A' && a <= 'Z') a = static_cast<char>(a + 32);
    out->push_back(a);
    return;
  }
  UChar source[2], mapped[8];
  int32_t n = 0;
  U16_APPEND_UNSAFE(source, n, static_cast<UChar32>(c));
  UErrorCode error = U_ZERO_ERROR;
  int32_t size = 0;
  switch (to) {
    case Case::kUpper:
      size = u_strToUpper(mapped, 8, source, n, "", &error);
      break;
    case Case::kTitle:  // only a few characters have a title form that is not their upper one, and all are single
      if (u_totitle(static_cast<UChar32>(c)) != u_toupper(static_cast<UChar32>(c))) {
        U16_APPEND_UNSAFE(mapped, size, u_totitle(static_cast<UChar32>(c)));
      } else {
        size = u_strToUpper(mapped, 8, source, n, "", &error);
        // "SS" and its like: of several letters only the first is large.
        for (int32_t i = 1; i < size && u_isupper(mapped[0]); ++i) mapped[i] = static_cast<UChar>(u_tolower(mapped[i]));
      }
      break;
    case Case::kFolded:
      size = u_strFoldCase(mapped, 8, source, n, U_FOLD_CASE_DEFAULT, &error);
      break;
    default:
      size = u_strToLower(mapped, 8, source, n, "", &error);
  }
  if (U_FAILURE(error)) {
    AppendUtf8(c, out);
    return;
  }
  for (int32_t i = 0; i < size;) {
    UChar32 code;
    U16_NEXT(mapped, i, size, code);
    AppendUtf8(static_cast<char32_t>(code), out);
  }
}

bool IsCased(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_CASED); }
bool IsCaseIgnorable(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_CASE_IGNORABLE); }

// A capital sigma at the end of a word has a small form of its own.
bool EndsWord(std::string_view text, size_t begin, size_t end) {
  bool before = false, after = false;
  for (size_t i = begin; i > 0;) {
    const char32_t c = PreviousCodePoint(text, &i);
    if (IsCaseIgnorable(c)) continue;
    before = IsCased(c);
    break;
  }
  for (size_t i = end; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    if (IsCaseIgnorable(c)) continue;
    after = IsCased(c);
    break;
  }
  return before && !after;
}

}  // namespace

bool IsSpace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
  return IsWhiteSpace(c);
}

bool IsLineEnd(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool IsPrintable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  return !HasCategory(c, U_GC_C_MASK | U_GC_Z_MASK);
}

bool IsAlphabetic(char32_t c) { return HasCategory(c, U_GC_L_MASK); }
bool IsDecimal(char32_t c) { return u_charType(static_cast<UChar32>(c)) == U_DECIMAL_DIGIT_NUMBER; }
bool IsDigit(char32_t c) {
  const int32_t type = u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_NUMERIC_TYPE);
  return type == U_NT_DIGIT || type == U_NT_DECIMAL;
}
bool IsNumeric(char32_t c) { return u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_NUMERIC_TYPE) != U_NT_NONE; }
bool IsUpper(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_UPPERCASE); }
bool IsLower(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_LOWERCASE); }
bool IsTitle(char32_t c) { return u_charType(static_cast<UChar32>(c)) == U_TITLECASE_LETTER; }
bool IsNameStart(char32_t c) { return c == '_' || u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_XID_START); }
bool IsNamePart(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_XID_CONTINUE); }

size_t CountCharacters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

size_t ByteOfCharacter(std::string_view text, size_t index) {
  size_t at = 0;
  for (; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
    if (index == 0) break;
    --index;
  }
  return at;
}

Text ChangeCase(const Text& text, Case to) {
  const std::string& bytes = text.bytes();
  Text out;
  OriginCursor origins(text);
  bool first = true, in_word = false;
  std::string mapped;
  for (size_t i = 0; i < bytes.size();) {
    const size_t begin = i;
    const char32_t c = NextCodePoint(bytes, &i);
    Case want = to;
    if (to == Case::kCapitalized) want = first ? Case::kTitle : Case::kLower;
    if (to == Case::kTitle) want = in_word ? Case::kLower : Case::kTitle;
    if (to == Case::kSwapped) want = IsUpper(c) ? Case::kLower : IsLower(c) ? Case::kUpper : Case::kSwapped;
    mapped.clear();
    if (want == Case::kSwapped) {
      mapped.assign(bytes, begin, i - begin);
    } else if (c == 0x3A3 && want == Case::kLower) {
      AppendUtf8(EndsWord(bytes, begin, i) ? 0x3C2 : 0x3C3, &mapped);
    } else {
      AppendMapped(c, want, &mapped);
    }
    out.Append(mapped, origins.At(begin));
    first = false;
    in_word = IsUpper(c) || IsLower(c) || IsTitle(c);
  }
  return out;
}

Text Strip(const Text& text, const std::string* chars, bool left, bool right) {
  const std::string_view bytes = text.bytes();
  const auto stripped = [&](char32_t c) {
    if (chars == nullptr) return IsSpace(c);
    for (size_t i = 0; i < chars->size();) {
      if (NextCodePoint(*chars, &i) == c) return true;
    }
    return false;
  };
  const std::string_view kept = Stripped(bytes, left, right, stripped);
  const size_t begin = kept.data() - bytes.data();
  return text.Part(begin, begin + kept.size());
}

std::vector<Text> SplitLines(const Text& text, bool keep_ends) {
  const std::string& bytes = text.bytes();
  std::vector<Text> lines;
  size_t begin = 0;
  for (size_t i = 0; i < bytes.size();) {
    const size_t at = i;
    const char32_t c = NextCodePoint(bytes, &i);
    if (!IsLineEnd(c)) continue;
    if (c == '\r' && i < bytes.size() && bytes[i] == '\n') ++i;
    lines.push_back(text.Part(begin, keep_ends ? i : at));
    begin = i;
  }
  if (begin < bytes.size()) lines.push_back(text.Part(begin, bytes.size()));
  return lines;
}

bool CharacterByName(const std::string& name, char32_t* found) {
  UErrorCode error = U_ZERO_ERROR;
  const UChar32 c = u_charFromName(U_UNICODE_CHAR_NAME, name.c_str(), &error);
  if (U_FAILURE(error)) return false;
  *found = static_cast<char32_t>(c);
  return true;
}

}  // namespace duo::jinja
