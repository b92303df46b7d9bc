#include "runtime/text/jinja/library/operators.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/format.h"
#include "runtime/text/jinja/library/walk.h"
#include "runtime/text/jinja/values/characters.h"

namespace duo::jinja {
namespace {

const char* Sign(Op op) {
  constexpr const char* kSigns[] = {"?", "+", "-",  "*",  "/", "//", "%", "**", "and", "or",    "not",
                                    "-", "+", "==", "!=", "<", "<=", ">", ">=", "in",  "not in"};
  return kSigns[static_cast<int>(op)];
}

Value NotSupported(Run& run, Op op, const Value& a, const Value& b) {
  for (const Value* v : {&a, &b}) {
    if (v->is_undefined()) return run.Fail(v->why());
  }
  return run.Fail(
      absl::StrCat(Sign(op), " has no meaning between values of the types ", TypeName(a), " and ", TypeName(b)));
}

Value TooLarge(Run& run) { return run.Fail("this whole number is larger than 64 bits"); }

Value IntegerPower(Run& run, int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return run.Fail("zero has no negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return TooLarge(run);
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return TooLarge(run);
  }
  return Value::Int(result);
}

Value Integers(Run& run, Op op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case Op::kAdd:
      return __builtin_add_overflow(a, b, &result) ? TooLarge(run) : Value::Int(result);
    case Op::kSub:
      return __builtin_sub_overflow(a, b, &result) ? TooLarge(run) : Value::Int(result);
    case Op::kMul:
      return __builtin_mul_overflow(a, b, &result) ? TooLarge(run) : Value::Int(result);
    case Op::kPow:
      return IntegerPower(run, a, b);
    default:
      break;
  }
  if (b == 0) return run.Fail("division by zero");
  if (op == Op::kDiv) return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) {
    if (op == Op::kMod) return Value::Int(0);
    return a == std::numeric_limits<int64_t>::min() ? TooLarge(run) : Value::Int(-a);
  }
  int64_t quotient = a / b, rest = a % b;
  if (rest != 0 && (rest < 0) != (b < 0)) {  // Python rounds down, and the rest has the divisor's sign
    --quotient;
    rest += b;
  }
  return Value::Int(op == Op::kMod ? rest : quotient);
}

Value Reals(Run& run, Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value::Float(a + b);
    case Op::kSub:
      return Value::Float(a - b);
    case Op::kMul:
      return Value::Float(a * b);
    case Op::kPow: {
      if (a == 0 && b < 0) return run.Fail("zero has no negative power");
      const double power = std::pow(a, b);
      if (std::isnan(power) && !std::isnan(a) && !std::isnan(b)) return run.Fail("this power is no real number");
      if (std::isinf(power) && !std::isinf(a) && !std::isinf(b)) return run.Fail("this power is too large");
      return Value::Float(power);
    }
    default:
      break;
  }
  if (b == 0) return run.Fail("division by zero");
  if (op == Op::kDiv) return Value::Float(a / b);
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0) {
    if ((b < 0) != (rest < 0)) {
      rest += b;
      quotient -= 1;
    }
  } else {
    rest = std::copysign(0.0, b);
  }
  if (op == Op::kMod) return Value::Float(rest);
  if (quotient == 0) return Value::Float(std::copysign(0.0, a / b));
  double whole = std::floor(quotient);
  if (quotient - whole > 0.5) whole += 1;
  return Value::Float(whole);
}

Value Repeat(Run& run, const Value& of, int64_t times) {
  const size_t n = static_cast<size_t>(std::max<int64_t>(times, 0));
  const size_t size = of.is_string() ? of.text().size() : of.sequence().items.size();
  size_t total = 0;
  if (__builtin_mul_overflow(n, size, &total)) total = std::numeric_limits<size_t>::max();
  if (!run.CanMake(total)) return Value();
  if (of.is_string()) {
    Text out;
    for (size_t i = 0; i < n && size > 0; ++i) out.Append(of.text());
    return Value::Str(std::move(out), of.safe());
  }
  std::vector<Value> items;
  items.reserve(total);
  for (size_t i = 0; i < n && size > 0; ++i)
    items.insert(items.end(), of.sequence().items.begin(), of.sequence().items.end());
  return of.is_list() ? Value::List(std::move(items)) : Value::Tuple(std::move(items));
}

Value Add(Run& run, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    const bool safe = a.safe() || b.safe();
    if (!run.CanMake(a.text().size() + b.text().size())) return Value();
    Text out = safe ? EscapeFor(b, a) : a.text();
    out.Append(safe ? EscapeFor(a, b) : b.text());
    return Value::Str(std::move(out), safe);
  }
  if ((a.is_list() && b.is_list()) || (a.is_tuple() && b.is_tuple())) {
    if (!run.CanMake(32 * (a.sequence().items.size() + b.sequence().items.size()))) return Value();
    std::vector<Value> items = a.sequence().items;
    items.insert(items.end(), b.sequence().items.begin(), b.sequence().items.end());
    return a.is_list() ? Value::List(std::move(items)) : Value::Tuple(std::move(items));
  }
  return NotSupported(run, Op::kAdd, a, b);
}

// -1, 0, 1; 2 if neither is less, as with NaN.
int Order(Run& run, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
    return a.real() < b.real() ? -1 : a.real() > b.real() ? 1 : a.real() == b.real() ? 0 : 2;
  }
  if (a.is_string() && b.is_string()) {
    run.Charge(std::min(a.weight(), b.weight()));
    const int order = a.bytes().compare(b.bytes());
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  if ((a.is_list() && b.is_list()) || (a.is_tuple() && b.is_tuple())) {
    const std::vector<Value>&x = a.sequence().items, &y = b.sequence().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (run.failed()) return 2;
      if (!CheckEqual(run, x[i], y[i])) return Order(run, x[i], y[i]);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
  }
  NotSupported(run, Op::kLt, a, b);
  return 2;
}

bool BoundOf(Run& run, const Value& value, int64_t if_none, int64_t* bound) {
  if (value.is_none()) {
    *bound = if_none;
    return true;
  }
  if (!value.is_integral()) {
    run.Fail(value.is_undefined() ? value.why() : absl::StrCat("a slice's bound is of type ", TypeName(value)));
    return false;
  }
  *bound = value.integer();
  return true;
}

}  // namespace

Text EscapeHtml(const Text& text) {
  Text out;
  OriginCursor origins(text);
  const std::string& bytes = text.bytes();
  size_t begin = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char* escaped = bytes[i] == '&'    ? "&amp;"
                          : bytes[i] == '<'  ? "&lt;"
                          : bytes[i] == '>'  ? "&gt;"
                          : bytes[i] == '\'' ? "&#39;"
                          : bytes[i] == '"'  ? "&#34;"
                                             : nullptr;
    if (escaped == nullptr) continue;
    out.AppendPart(text, begin, i);
    out.Append(escaped, origins.At(i));
    begin = i + 1;
  }
  out.AppendPart(text, begin, bytes.size());
  return out;
}

Text EscapeFor(const Value& markup, const Value& value) {
  return markup.safe() && !value.safe() ? EscapeHtml(value.text()) : value.text();
}

bool CheckEqual(Run& run, const Value& a, const Value& b) {
  return run.Charge(std::min(a.weight(), b.weight())) && Equal(a, b);
}

bool CheckKey(Run& run, const Value& key) {
  std::string text;
  if (!run.Charge(key.weight())) return false;
  if (Dict::KeyOf(key, &text)) return true;
  run.Fail(absl::StrCat("a value of type ", TypeName(key), " cannot be a dict's key"));
  return false;
}

Value ApplyUnary(Run& run, Op op, const Value& a) {
  if (op == Op::kNot) return Value::Bool(!IsTrue(a));
  if (a.is_undefined()) return run.Fail(a.why());
  if (!a.is_number()) return run.Fail(absl::StrCat("a value of type ", TypeName(a), " has no sign"));
  if (a.is(Kind::kFloat)) return Value::Float(op == Op::kNeg ? -a.real() : a.real());
  return op == Op::kNeg ? Integers(run, Op::kSub, 0, a.integer()) : Value::Int(a.integer());
}

Value ApplyBinary(Run& run, Op op, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.is_integral() && b.is_integral() ? Integers(run, op, a.integer(), b.integer())
                                              : Reals(run, op, a.real(), b.real());
  }
  if (a.is_undefined() || b.is_undefined()) {
    // Only a format takes an undefined value.
    if (op != Op::kMod || !a.is_string()) return NotSupported(run, op, a, b);
  }
  if (op == Op::kAdd) return Add(run, a, b);
  if (op == Op::kMul) {
    const auto repeats = [](const Value& v) { return v.is_string() || v.is_list() || v.is_tuple(); };
    if (repeats(a) && b.is_integral()) return Repeat(run, a, b.integer());
    if (repeats(b) && a.is_integral()) return Repeat(run, b, a.integer());
  }
  if (op == Op::kMod && a.is_string()) return FormatPercent(run, a, b);
  return NotSupported(run, op, a, b);
}

bool Less(Run& run, const Value& a, const Value& b) { return Order(run, a, b) == -1; }

bool Contains(Run& run, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (item.is_string()) {
      run.Charge(container.weight());
      return container.bytes().find(item.bytes()) != std::string::npos;
    }
    run.Fail(absl::StrCat("a value of type ", TypeName(item), " cannot be looked for in a str"));
    return false;
  }
  if (container.is(Kind::kDict)) return CheckKey(run, item) && container.dict().Find(item) != nullptr;
  if (!IsIterable(container)) {
    run.Fail(absl::StrCat("nothing can be looked for in a value of type ", TypeName(container)));
    return false;
  }
  Walk walk{container, 0};
  Value other;
  while (NextOf(run, walk, &other)) {
    if (other.Same(item) || CheckEqual(run, other, item)) return true;
  }
  return false;
}

bool Compare(Run& run, Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::kEq:
      return CheckEqual(run, a, b);
    case Op::kNe:
      return !CheckEqual(run, a, b);
    case Op::kIn:
      return Contains(run, b, a);
    case Op::kNotIn:
      return !Contains(run, b, a);
    default:
      break;
  }
  const int order = Order(run, a, b);
  return op == Op::kLt   ? order == -1
         : op == Op::kLe ? order == -1 || order == 0
         : op == Op::kGt ? order == 1
                         : order == 1 || order == 0;
}

Value Slice(Run& run, const Value& of, const Value& start, const Value& stop, const Value& step) {
  if (of.is_undefined()) return run.Fail(of.why());
  const SequenceType type = of.is(Kind::kSequence) ? of.sequence().type : SequenceType::kList;
  const bool sliced = of.is_string() || of.is_list() || of.is_tuple() || type == SequenceType::kRange;
  if (!sliced) return run.Fail(absl::StrCat("a value of type ", TypeName(of), " cannot be sliced"));
  int64_t by = 0, from = 0, to = 0;
  if (!BoundOf(run, step, 1, &by)) return Value();
  if (by == 0) return run.Fail("a slice's step is zero");
  const int64_t n = LengthOf(of);
  by = std::clamp(by, -n - 1, n + 1);
  // Where a walk by `by` begins and ends if nothing is said, and how far a bound may lie outside.
  const int64_t least = by > 0 ? 0 : -1, most = by > 0 ? n : n - 1;
  if (!BoundOf(run, start, by > 0 ? least : most, &from) || !BoundOf(run, stop, by > 0 ? most : least, &to))
    return Value();
  if (!start.is_none()) from = std::clamp(from < 0 ? from + n : from, least, most);
  if (!stop.is_none()) to = std::clamp(to < 0 ? to + n : to, least, most);
  if (of.is_string()) {
    const std::string& bytes = of.bytes();
    if (by == 1) {
      if (to <= from) return Value::Str(Text(), of.safe());
      return run.Make(of.text().Part(ByteOfCharacter(bytes, from), ByteOfCharacter(bytes, to)), of.safe());
    }
    std::vector<size_t> begins;
    for (size_t i = 0; i < bytes.size(); ++i) {
      if ((static_cast<unsigned char>(bytes[i]) & 0xC0) != 0x80) begins.push_back(i);
    }
    begins.push_back(bytes.size());
    if (!run.Charge(n)) return Value();
    Text out;
    for (int64_t i = from; by > 0 ? i < to : i > to; i += by) {
      out.AppendPart(of.text(), begins[i], begins[i + 1]);
      if ((by > 0 ? to - i : i - to) <= std::llabs(by)) break;
    }
    return run.Make(std::move(out), of.safe());
  }
  std::vector<Value> items;
  for (int64_t i = from; by > 0 ? i < to : i > to; i += by) {
    items.push_back(of.sequence().items[i]);
    if ((by > 0 ? to - i : i - to) <= std::llabs(by)) break;
  }
  if (!run.Charge(static_cast<int64_t>(items.size()))) return Value();
  auto made = NewSequence(type == SequenceType::kGroup ? SequenceType::kTuple : type, std::move(items));
  if (type == SequenceType::kRange) {
    const Sequence& range = of.sequence();
    made->start = range.start + from * range.step;
    made->stop = range.start + to * range.step;
    made->step = range.step * by;
  }
  return Value::Of(std::shared_ptr<const Sequence>(std::move(made)));
}

}  // namespace duo::jinja
