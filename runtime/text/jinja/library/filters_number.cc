// Filters that make or change numbers.
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/text/jinja/library/arguments.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/values/characters.h"

namespace duo::jinja {
namespace {

// Python takes single underscores between digits.
bool DropUnderscores(std::string* text) {
  const auto alnum = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  std::string out;
  for (size_t i = 0; i < text->size(); ++i) {
    if ((*text)[i] != '_') {
      out.push_back((*text)[i]);
    } else if (i == 0 || i + 1 >= text->size() || !alnum((*text)[i - 1]) || !alnum((*text)[i + 1])) {
      return false;
    }
  }
  *text = std::move(out);
  return true;
}

std::optional<double> ParseFloat(const Text& text) {
  std::string digits = Strip(text, nullptr, true, true).bytes();
  if (!DropUnderscores(&digits) || digits.empty()) return std::nullopt;
  if (digits.find_first_of("xXpP(") != std::string::npos) return std::nullopt;  // strtod reads more than Python
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  return *end == '\0' && end != digits.c_str() ? std::optional(value) : std::nullopt;
}

enum class Parsed { kYes, kNo, kTooLarge };

Parsed ParseInt(const Text& text, int64_t base, int64_t* value) {
  std::string digits = Strip(text, nullptr, true, true).bytes();
  if (!DropUnderscores(&digits)) return Parsed::kNo;
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.erase(0, 1);
  const auto prefixed = [&](char letter) {
    return digits.size() > 2 && digits[0] == '0' && (digits[1] | 0x20) == letter;
  };
  for (const auto& [letter, its_base] : {std::pair('x', 16), std::pair('o', 8), std::pair('b', 2)}) {
    if ((base != its_base && base != 0) || !prefixed(letter)) continue;
    base = its_base;
    digits.erase(0, 2);
    break;
  }
  if (base == 0) {
    if (digits.size() > 1 && digits[0] == '0' && digits.find_first_not_of('0') != std::string::npos) return Parsed::kNo;
    base = 10;
  }
  if (digits.empty()) return Parsed::kNo;
  *value = 0;
  for (const char c : digits) {
    const int digit = c >= '0' && c <= '9'                          ? c - '0'
                      : std::isalpha(static_cast<unsigned char>(c)) ? (c | 0x20) - 'a' + 10
                                                                    : 99;
    if (digit >= base) return Parsed::kNo;
    if (__builtin_mul_overflow(*value, base, value) || __builtin_sub_overflow(*value, int64_t{digit}, value))
      return Parsed::kTooLarge;
  }
  if (!negative && __builtin_sub_overflow(int64_t{0}, *value, value)) return Parsed::kTooLarge;
  return Parsed::kYes;
}

Value IntFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value otherwise = Value::Int(0), base_value = Value::Int(10);
  int64_t base = 10, value = 0;
  if (!Bind(run, "int", arguments, {{"default", &otherwise}, {"base", &base_value}}) ||
      !IntegerOf(run, "int", base_value, &base))
    return Value();
  if (of.is_undefined()) return run.Fail(of.why());
  if (of.is_integral()) return Value::Int(of.integer());
  double real = of.is(Kind::kFloat) ? of.real() : 0;
  if (of.is(Kind::kFloat) && std::isinf(real)) return run.Fail("int: infinity is no whole number");
  if (of.is_string()) {
    if (base >= 2 && base <= 36) {
      const Parsed parsed = ParseInt(of.text(), base, &value);
      if (parsed == Parsed::kYes) return Value::Int(value);
      if (parsed == Parsed::kTooLarge) return run.Fail("int: this whole number is larger than 64 bits");
    } else if (base == 0 && ParseInt(of.text(), 0, &value) == Parsed::kYes) {
      return Value::Int(value);
    }
    const std::optional<double> parsed = ParseFloat(of.text());
    if (!parsed.has_value()) return otherwise;
    real = *parsed;
  } else if (!of.is(Kind::kFloat)) {
    return otherwise;
  }
  if (std::isnan(real) || std::isinf(real)) return otherwise;
  if (std::fabs(real) >= 9.2e18) return run.Fail("int: this whole number is larger than 64 bits");
  return Value::Int(static_cast<int64_t>(real));
}

Value FloatFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value otherwise = Value::Float(0);
  if (!Bind(run, "float", arguments, {{"default", &otherwise}})) return Value();
  if (of.is_undefined()) return run.Fail(of.why());
  if (of.is_number()) return Value::Float(of.real());
  const std::optional<double> parsed = of.is_string() ? ParseFloat(of.text()) : std::nullopt;
  return parsed.has_value() ? Value::Float(*parsed) : otherwise;
}

Value AbsFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "abs", arguments, {})) return Value();
  if (of.is_undefined()) return run.Fail(of.why());
  if (of.is(Kind::kFloat)) return Value::Float(std::fabs(of.real()));
  if (!of.is_integral()) return run.Fail(absl::StrCat("abs: a ", TypeName(of), " has no size"));
  return of.integer() < 0 ? ApplyUnary(run, Op::kNeg, of) : Value::Int(of.integer());
}

// To the nearest multiple of 10^-precision, halves to the even one, as the number's exact value has it.
Value RoundCommon(Run& run, const Value& of, int64_t precision) {
  if (of.is_integral()) {
    if (precision >= 0) return Value::Int(of.integer());
    if (precision < -18) return Value::Int(0);
    int64_t unit = 1;
    for (int64_t i = 0; i < -precision; ++i) unit *= 10;
    const int64_t value = of.integer();
    int64_t below = value / unit * unit;
    if (below > value) below -= unit;
    const int64_t rest = value - below;
    const bool up = rest > unit - rest || (rest == unit - rest && (below / unit) % 2 != 0);
    int64_t result = below;
    if (up && __builtin_add_overflow(below, unit, &result)) return run.Fail("round: the number is larger than 64 bits");
    return Value::Int(result);
  }
  const double value = of.real();
  if (!std::isfinite(value) || precision > 340) return of;
  if (precision < -308) return Value::Float(std::copysign(0.0, value));
  if (precision < 0) {
    const double unit = std::pow(10.0, static_cast<double>(-precision));
    return Value::Float(std::nearbyint(value / unit) * unit);
  }
  char text[800];
  std::snprintf(text, sizeof(text), "%.*f", static_cast<int>(precision), value);
  return Value::Float(std::strtod(text, nullptr));
}

Value RoundFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value precision_value = Value::Int(0), method = Value::Str("common");
  int64_t precision = 0;
  if (!Bind(run, "round", arguments, {{"precision", &precision_value}, {"method", &method}}) ||
      !IntegerOf(run, "round", precision_value, &precision) || !StringOf(run, "round", method))
    return Value();
  if (of.is_undefined()) return run.Fail(of.why());
  const std::string& name = method.bytes();
  if (name != "common" && name != "ceil" && name != "floor")
    return run.Fail("round: the method is common, ceil or floor");
  if (!of.is_number()) return run.Fail(absl::StrCat("round: a ", TypeName(of), " cannot be rounded"));
  if (name == "common") return RoundCommon(run, of, precision);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = of.real() * scale;
  if (!std::isfinite(scaled)) return run.Fail("round: the number is too large");
  return Value::Float((0.0 + (name == "ceil" ? std::ceil(scaled) : std::floor(scaled))) / scale);
}

Value FileSizeFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value binary = Value::Bool(false);
  if (!Bind(run, "filesizeformat", arguments, {{"binary", &binary}})) return Value();
  if (of.is_undefined()) return run.Fail(of.why());
  const std::optional<double> parsed = of.is_number()   ? std::optional(of.real())
                                       : of.is_string() ? ParseFloat(of.text())
                                                        : std::nullopt;
  if (!parsed.has_value() || !std::isfinite(*parsed)) return run.Fail("filesizeformat needs a number");
  const double bytes = *parsed, base = IsTrue(binary) ? 1024 : 1000;
  if (bytes == 1) return Value::Str("1 Byte");
  if (bytes < base) return Value::Str(absl::StrFormat("%d Bytes", static_cast<int64_t>(bytes)));
  constexpr std::string_view kLetters = "kMGTPEZY";
  double unit = base;
  size_t i = 0;
  while (i + 1 < kLetters.size() && bytes >= unit * base) {
    unit *= base;
    ++i;
  }
  const std::string letter(1, IsTrue(binary) && i == 0 ? 'K' : kLetters[i]);
  return Value::Str(absl::StrFormat("%.1f %s%s", bytes / unit, letter, IsTrue(binary) ? "iB" : "B"));
}

}  // namespace

std::initializer_list<NamedFilter> NumberFilters() {
  static constexpr std::initializer_list<NamedFilter> kFilters = {
      {"abs", AbsFilter},     {"filesizeformat", FileSizeFilter}, {"float", FloatFilter}, {"int", IntFilter},
      {"round", RoundFilter},
  };
  return kFilters;
}

}  // namespace duo::jinja
