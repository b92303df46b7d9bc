// Methods of dicts, lists, tuples and their like. What would change a value is there, but not to be used.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/arguments.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/library/walk.h"

namespace duo::jinja {
namespace {

Value View(Run& run, const Value& self, const Arguments& arguments, const char* name, SequenceType type) {
  if (!Bind(run, name, arguments, {})) return Value();
  std::vector<Value> items;
  if (!run.CanMake(32 * self.dict().size())) return Value();
  for (const auto& [key, value] : self.dict().entries()) {
    items.push_back(type == SequenceType::kKeys     ? key
                    : type == SequenceType::kValues ? value
                                                    : Value::Tuple({key, value}));
  }
  return Value::Of(std::shared_ptr<const Sequence>(NewSequence(type, std::move(items))));
}

Value Keys(Run& run, const Value& self, const Arguments& arguments) {
  return View(run, self, arguments, "dict.keys", SequenceType::kKeys);
}
Value Values(Run& run, const Value& self, const Arguments& arguments) {
  return View(run, self, arguments, "dict.values", SequenceType::kValues);
}
Value Items(Run& run, const Value& self, const Arguments& arguments) {
  return View(run, self, arguments, "dict.items", SequenceType::kItems);
}

Value Get(Run& run, const Value& self, const Arguments& arguments) {
  Value key, otherwise = Value::None();
  if (!Bind(run, "dict.get", arguments, {{"key", &key, true, false}, {"default", &otherwise, false, false}}))
    return Value();
  if (!CheckKey(run, key)) return Value();
  const Value* found = self.dict().Find(key);
  return found == nullptr ? otherwise : *found;
}

Value Copy(Run& run, const Value& self, const Arguments& arguments) {
  return Bind(run, "copy", arguments, {}) ? self : Value();
}

Value Count(Run& run, const Value& self, const Arguments& arguments) {
  Value wanted;
  if (!Bind(run, "count", arguments, {{"value", &wanted, true, false}})) return Value();
  int64_t count = 0;
  for (const Value& item : self.sequence().items) count += item.Same(wanted) || CheckEqual(run, item, wanted);
  return Value::Int(count);
}

Value Index(Run& run, const Value& self, const Arguments& arguments) {
  const std::vector<Value>& items = self.sequence().items;
  const int64_t n = static_cast<int64_t>(items.size());
  Value wanted, start = Value::Int(0), stop = Value::Int(n);
  if (!Bind(run, "index", arguments,
            {{"value", &wanted, true, false}, {"start", &start, false, false}, {"stop", &stop, false, false}}))
    return Value();
  int64_t from = 0, to = 0;
  if (!IntegerOf(run, "index", start, &from) || !IntegerOf(run, "index", stop, &to)) return Value();
  from = std::clamp<int64_t>(from < 0 ? from + n : from, 0, n);
  to = std::clamp<int64_t>(to < 0 ? to + n : to, 0, n);
  for (int64_t i = from; i < to && !run.failed(); ++i) {
    if (items[i].Same(wanted) || CheckEqual(run, items[i], wanted)) return Value::Int(i);
  }
  return run.Fail("index: the value is not in the list");
}

Value IsInteger(Run& run, const Value& self, const Arguments& arguments) {
  if (!Bind(run, "is_integer", arguments, {})) return Value();
  return Value::Bool(std::isfinite(self.real()) && std::floor(self.real()) == self.real());
}

bool IsOneOf(const std::string& name, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* other) { return name == other; });
}

Value Forbidden(const Value& of, const std::string& name) {
  return Value::Undef(absl::StrCat("access to the attribute '", name, "' of a ", TypeName(of),
                                   " is unsafe: templates cannot change values"));
}

}  // namespace

Value ContainerMethod(const Value& of, const std::string& name) {
  if (of.is(Kind::kDict)) {
    if (name == "get") return BindMethod("get", Get, of);
    if (name == "items") return BindMethod("items", Items, of);
    if (name == "keys") return BindMethod("keys", Keys, of);
    if (name == "values") return BindMethod("values", Values, of);
    if (name == "copy") return BindMethod("copy", Copy, of);
    return IsOneOf(name, {"clear", "pop", "popitem", "setdefault", "update"}) ? Forbidden(of, name) : Value();
  }
  if (of.is(Kind::kFloat)) return name == "is_integer" ? BindMethod("is_integer", IsInteger, of) : Value();
  if (!of.is(Kind::kSequence)) return Value();
  const SequenceType type = of.sequence().type;
  if (type >= SequenceType::kKeys) return Value();
  if (type == SequenceType::kGroup && name == "grouper") return of.sequence().items[0];
  if (type == SequenceType::kGroup && name == "list") return of.sequence().items[1];
  if (type == SequenceType::kRange) {
    if (name == "start") return Value::Int(of.sequence().start);
    if (name == "stop") return Value::Int(of.sequence().stop);
    if (name == "step") return Value::Int(of.sequence().step);
  }
  if (name == "count") return BindMethod("count", Count, of);
  if (name == "index") return BindMethod("index", Index, of);
  if (type != SequenceType::kList) return Value();
  if (name == "copy") return BindMethod("copy", Copy, of);
  return IsOneOf(name, {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"})
             ? Forbidden(of, name)
             : Value();
}

}  // namespace duo::jinja
