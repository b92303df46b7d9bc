// Numbers in the layouts that format specifications name, and padding.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/format.h"
#include "runtime/text/jinja/values/characters.h"
#include "runtime/text/jinja/values/print.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {
namespace {

std::string Digits(uint64_t n, unsigned base, bool upper) {
  const std::string_view letters = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string digits;
  do {
    digits.insert(digits.begin(), letters[n % base]);
    n /= base;
  } while (n > 0);
  return digits;
}

// Separates the whole part's digits by threes, or by fours for other bases than ten.
void Group(char separator, size_t every, std::string* digits) {
  size_t whole = digits->find_first_not_of("0123456789abcdefABCDEF");
  if (const size_t end = digits->find_first_of(".e%"); end != std::string::npos) whole = std::min(whole, end);
  if (whole == std::string::npos) whole = digits->size();
  for (size_t at = whole; at > every;) {
    at -= every;
    digits->insert(at, 1, separator);
  }
}

bool FormatInteger(const FormatSpec& spec, int64_t value, std::string* out, std::string* prefix) {
  const uint64_t size = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  switch (spec.type) {
    case 0:
    case 'd':
    case 'n':
      *out = Digits(size, 10, false);
      break;
    case 'b':
      *out = Digits(size, 2, false);
      break;
    case 'o':
      *out = Digits(size, 8, false);
      break;
    case 'x':
    case 'X':
      *out = Digits(size, 16, spec.type == 'X');
      break;
    case 'c':
      if (value < 0 || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) return false;
      AppendUtf8(static_cast<char32_t>(value), out);
      return true;
    default:
      return false;
  }
  if (spec.alternate && (spec.type == 'b' || spec.type == 'o' || spec.type == 'x' || spec.type == 'X'))
    *prefix = absl::StrCat("0", std::string(1, spec.type));
  const bool ten = spec.type == 0 || spec.type == 'd' || spec.type == 'n';
  if (spec.grouping != 0) Group(spec.grouping, ten ? 3 : 4, out);
  return true;
}

bool FormatReal(const FormatSpec& spec, double value, std::string* out) {
  const double size = std::fabs(value);
  char type = spec.type;
  if (std::isnan(value) || std::isinf(value)) {
    const bool upper = type == 'F' || type == 'E' || type == 'G';
    *out = std::isnan(value) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf");
    return true;
  }
  const bool percent = type == '%';
  if (type == 0 && spec.precision < 0) {
    *out = FloatText(size);
  } else {
    char layout[16], buffer[1500];
    const int precision = spec.precision < 0 ? 6 : spec.precision;
    const char letter = type == 0 || type == 'n' ? 'g' : percent ? 'f' : type;
    if (std::string_view("fFeEgG").find(letter) == std::string_view::npos) return false;
    std::snprintf(layout, sizeof(layout), "%%%s.*%c", spec.alternate ? "#" : "", letter);
    std::snprintf(buffer, sizeof(buffer), layout, precision, percent ? size * 100 : size);
    *out = buffer;
    if (type == 0 && out->find_first_of(".e") == std::string::npos) *out += ".0";
    if (percent) *out += "%";
  }
  if (spec.grouping != 0) Group(spec.grouping, 3, out);
  return true;
}

}  // namespace

bool FormatNumber(const FormatSpec& spec, const Value& number, std::string* out, size_t* prefix) {
  const bool as_real = number.is(Kind::kFloat) ||
                       (spec.type != 0 && std::string_view("fFeEgG%").find(spec.type) != std::string_view::npos);
  std::string head;
  const bool negative = as_real ? std::signbit(number.real()) && !std::isnan(number.real()) : number.integer() < 0;
  if (negative) head = "-";
  if (!negative && (spec.sign == '+' || spec.sign == ' ')) head = std::string(1, spec.sign);
  std::string body, base;
  if (as_real ? !FormatReal(spec, number.real(), &body)
              : spec.precision >= 0 || !FormatInteger(spec, number.integer(), &body, &base))
    return false;
  if (spec.type == 'c') head.clear();
  *prefix = head.size() + base.size();
  *out = head + base + body;
  return true;
}

Text Pad(const FormatSpec& spec, const Text& text, size_t prefix, char default_align) {
  const size_t size = CountCharacters(text.bytes());
  if (spec.width <= 0 || size >= static_cast<size_t>(spec.width)) return text;
  const size_t missing = static_cast<size_t>(spec.width) - size;
  const char align = spec.align != 0 ? spec.align : default_align;
  const size_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  const size_t head = align == '=' ? prefix : 0;
  Text out = text.Part(0, head);
  for (size_t i = 0; i < left; ++i) out.Append(spec.fill, Origin::kTemplate);
  out.AppendPart(text, head, text.size());
  for (size_t i = left; i < missing; ++i) out.Append(spec.fill, Origin::kTemplate);
  return out;
}

}  // namespace duo::jinja
