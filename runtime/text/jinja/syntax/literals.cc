#include "runtime/text/jinja/syntax/literals.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/values/characters.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {
namespace {

int DigitOf(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

// Digits with single underscores between them, from `at` on: their end, `at` if there is none.
size_t Digits(std::string_view source, size_t at, int base, bool leading_underscore) {
  size_t end = at;
  while (end < source.size()) {
    const bool underscore = source[end] == '_' && (end > at || leading_underscore);
    const size_t digit = end + (underscore ? 1 : 0);
    if (digit >= source.size() || DigitOf(source[digit]) >= base) break;
    end = digit + 1;
  }
  return end;
}

}  // namespace

bool StringLiteral(std::string_view inside, std::string* out, std::string* why) {
  for (size_t i = 0; i < inside.size(); ++i) {
    if (inside[i] != '\\' || i + 1 >= inside.size()) {
      out->push_back(inside[i]);
      continue;
    }
    const char c = inside[++i];
    constexpr std::string_view kNames = "abfnrtv\\'\"";
    constexpr std::string_view kValues = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t known = kNames.find(c); known != std::string_view::npos) {
      out->push_back(kValues[known]);
    } else if (c == '\n') {  // the string goes on in the next line
    } else if (c >= '0' && c <= '7') {
      uint32_t code = 0;
      size_t end = i;
      while (end < inside.size() && end < i + 3 && inside[end] >= '0' && inside[end] <= '7')
        code = code * 8 + static_cast<uint32_t>(inside[end++] - '0');
      AppendUtf8(code, out);
      i = end - 1;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      uint32_t code = 0;
      for (size_t k = 1; k <= digits; ++k) {
        const int digit = i + k < inside.size() ? DigitOf(inside[i + k]) : 99;
        if (digit >= 16) {
          *why = absl::StrCat("the escape \\", std::string(1, c), " wants ", digits, " hexadecimal digits");
          return false;
        }
        code = code * 16 + static_cast<uint32_t>(digit);
      }
      if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
        *why = "this string's escape is no character";
        return false;
      }
      AppendUtf8(code, out);
      i += digits;
    } else if (c == 'N' && i + 1 < inside.size() && inside[i + 1] == '{') {
      const size_t close = inside.find('}', i);
      char32_t code = 0;
      if (close == std::string_view::npos ||
          !CharacterByName(std::string(inside.substr(i + 2, close - i - 2)), &code)) {
        *why = "this string's \\N{..} names no character";
        return false;
      }
      AppendUtf8(code, out);
      i = close;
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      // Python escapes the character first, and the backslash that is there already then stands for itself.
      const char32_t code = NextCodePoint(inside, &i);
      char text[16];
      std::snprintf(text, sizeof(text),
                    code < 0x100     ? "x%02x"
                    : code < 0x10000 ? "u%04x"
                                     : "U%08x",
                    static_cast<unsigned>(code));
      absl::StrAppend(out, "\\", text);
      --i;
    } else {
      out->push_back('\\');
      out->push_back(c);
    }
  }
  return true;
}

size_t FloatEnd(std::string_view source, size_t at) {
  const size_t whole = Digits(source, at, 10, false);
  size_t end = whole;
  bool is_float = false;
  if (end < source.size() && source[end] == '.') {
    const size_t part = Digits(source, end + 1, 10, false);
    if (part > end + 1) {
      end = part;
      is_float = true;
    }
  }
  if (end < source.size() && (source[end] == 'e' || source[end] == 'E')) {
    size_t digits = end + 1;
    if (digits < source.size() && (source[digits] == '+' || source[digits] == '-')) ++digits;
    const size_t exponent = Digits(source, digits, 10, false);
    if (exponent > digits) {
      end = exponent;
      is_float = true;
    }
  }
  return is_float ? end : 0;
}

size_t IntegerLiteral(std::string_view source, size_t at, int64_t* value) {
  int base = 10;
  size_t begin = at, end = at;
  if (source[at] == '0' && at + 1 < source.size()) {
    const char c = static_cast<char>(source[at + 1] | 0x20);
    base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
    if (base != 10) {
      begin = at + 2;
      end = Digits(source, begin, base, true);
      if (end == begin) {  // just a zero, and a name behind it
        base = 10;
        begin = at;
      }
    }
  }
  if (base == 10) {
    end = Digits(source, at, 10, false);
    if (source[at] == '0') {  // zeros only: `012` is 0 and then 12
      end = at;
      while (end < source.size() &&
             (source[end] == '0' || (source[end] == '_' && end + 1 < source.size() && source[end + 1] == '0')))
        ++end;
    }
  }
  *value = 0;
  for (size_t i = begin; i < end; ++i) {
    if (source[i] == '_') continue;
    if (__builtin_mul_overflow(*value, int64_t{base}, value) ||
        __builtin_add_overflow(*value, int64_t{DigitOf(source[i])}, value))
      return 0;
  }
  return end;
}

}  // namespace duo::jinja
