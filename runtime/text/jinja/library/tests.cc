// The tests: `x is defined` and its like.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/arguments.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/library/walk.h"

namespace duo::jinja {
namespace {

bool None(Run& run, const Arguments& arguments) { return Bind(run, "this test", arguments, {}); }

Value One(Run& run, const Arguments& arguments) {
  Value other;
  Bind(run, "this test", arguments, {{"other", &other, true, false}});
  return other;
}

template <bool (*holds)(const Value&)>
bool Simple(Run& run, const Value& of, const Arguments& arguments) {
  return None(run, arguments) && holds(of);
}

template <Op op>
bool Comparison(Run& run, const Value& of, const Arguments& arguments) {
  const Value other = One(run, arguments);
  return !run.failed() && Compare(run, op, of, other);
}

bool HasRest(Run& run, const Value& of, const Value& divisor, int64_t rest) {
  const Value found = ApplyBinary(run, Op::kMod, of, divisor);
  return !run.failed() && Equal(found, Value::Int(rest));
}

template <int rest>
bool Parity(Run& run, const Value& of, const Arguments& arguments) {
  return None(run, arguments) && HasRest(run, of, Value::Int(2), rest);
}

bool DivisibleBy(Run& run, const Value& of, const Arguments& arguments) {
  const Value other = One(run, arguments);
  return !run.failed() && HasRest(run, of, other, 0);
}

bool In(Run& run, const Value& of, const Arguments& arguments) {
  const Value container = One(run, arguments);
  return !run.failed() && Contains(run, container, of);
}

bool SameAs(Run& run, const Value& of, const Arguments& arguments) {
  const Value other = One(run, arguments);
  return !run.failed() && of.Same(other);
}

template <bool upper>
bool HasCase(Run& run, const Value& of, const Arguments& arguments) {
  Text text;
  if (!None(run, arguments) || !run.Str(of, &text)) return false;
  return IsTrue(run.Call(StringMethod(Value::Str(std::move(text)), upper ? "isupper" : "islower"), {}));
}

template <bool (*known)(std::string_view)>
bool Known(Run& run, const Value& of, const Arguments& arguments) {
  return None(run, arguments) && of.is_string() && known(of.bytes());
}

bool IsSequence(const Value& v) {
  return v.is_undefined() || v.is_string() || v.is(Kind::kDict) ||
         (v.is(Kind::kSequence) && v.sequence().type < SequenceType::kKeys);
}
bool IsCallable(const Value& v) {
  return v.is(Kind::kCallable) || v.is(Kind::kLoop) || v.is_undefined() || (v.is(Kind::kCycler) && v.cycler().joins);
}

constexpr NamedTest kTests[] = {
    {"!=", Comparison<Op::kNe>},
    {"<", Comparison<Op::kLt>},
    {"<=", Comparison<Op::kLe>},
    {"==", Comparison<Op::kEq>},
    {">", Comparison<Op::kGt>},
    {">=", Comparison<Op::kGe>},
    {"boolean", Simple<[](const Value& v) { return v.is(Kind::kBool); }>},
    {"callable", Simple<IsCallable>},
    {"defined", Simple<[](const Value& v) { return !v.is_undefined(); }>},
    {"divisibleby", DivisibleBy},
    {"eq", Comparison<Op::kEq>},
    {"equalto", Comparison<Op::kEq>},
    {"escaped", Simple<[](const Value& v) { return v.safe(); }>},
    {"even", Parity<0>},
    {"false", Simple<[](const Value& v) { return v.is(Kind::kBool) && !v.boolean(); }>},
    {"filter", Known<HasFilter>},
    {"float", Simple<[](const Value& v) { return v.is(Kind::kFloat); }>},
    {"ge", Comparison<Op::kGe>},
    {"greaterthan", Comparison<Op::kGt>},
    {"gt", Comparison<Op::kGt>},
    {"in", In},
    {"integer", Simple<[](const Value& v) { return v.is(Kind::kInt); }>},
    {"iterable", Simple<IsIterable>},
    {"le", Comparison<Op::kLe>},
    {"lessthan", Comparison<Op::kLt>},
    {"lower", HasCase<false>},
    {"lt", Comparison<Op::kLt>},
    {"mapping", Simple<[](const Value& v) { return v.is(Kind::kDict); }>},
    {"ne", Comparison<Op::kNe>},
    {"none", Simple<[](const Value& v) { return v.is_none(); }>},
    {"number", Simple<[](const Value& v) { return v.is_number(); }>},
    {"odd", Parity<1>},
    {"sameas", SameAs},
    {"sequence", Simple<IsSequence>},
    {"string", Simple<[](const Value& v) { return v.is_string(); }>},
    {"test", Known<HasTest>},
    {"true", Simple<[](const Value& v) { return v.is(Kind::kBool) && v.boolean(); }>},
    {"undefined", Simple<[](const Value& v) { return v.is_undefined(); }>},
    {"upper", HasCase<true>},
};

const NamedTest* FindTest(std::string_view name) {
  for (const NamedTest& test : kTests) {
    if (name == test.name) return &test;
  }
  return nullptr;
}

}  // namespace

bool HasTest(std::string_view name) { return FindTest(name) != nullptr; }

bool Run::Test(const std::string& name, const Value& value, const Arguments& arguments) {
  const NamedTest* found = FindTest(name);
  if (found != nullptr) return found->function(*this, value, arguments);
  Fail(absl::StrCat("there is no test ", name));
  return false;
}

}  // namespace duo::jinja
