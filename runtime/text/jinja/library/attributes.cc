// of.name and of[index], with the sandbox's rules: a dict's methods hide its keys for `.`, its keys hide its methods
// for
// [..], what would change a value is undefined, and so is whatever begins and ends with two underscores.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/arguments.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/library/walk.h"
#include "runtime/text/jinja/run.h"
#include "runtime/text/jinja/values/characters.h"

namespace duo::jinja {
namespace {

Value NoAttribute(const Value& of, const std::string& name) {
  const char* type = of.is_none() ? "None" : TypeName(of);
  return Value::Undef(absl::StrCat("'", type, of.is_none() ? "" : " object", "' has no attribute '", name, "'"));
}

Value Cycle(Run& run, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty() || !arguments.named.empty())
    return run.Fail("loop.cycle needs values to go through");
  return arguments.positional[(self.loop().index - 1) % arguments.positional.size()];
}

Value Changed(Run& run, const Value& self, const Arguments& arguments) {
  Loop& loop = self.loop();
  const std::vector<Value>&before = loop.changed, &now = arguments.positional;
  const bool same =
      loop.knows_changed && std::equal(before.begin(), before.end(), now.begin(), now.end(),
                                       [&](const Value& a, const Value& b) { return CheckEqual(run, a, b); });
  if (same) return Value::Bool(false);
  loop.knows_changed = true;
  loop.changed = arguments.positional;
  return Value::Bool(true);
}

// How many items the loop goes over; a condition, or an iterator, is followed to its end to know it.
int64_t LoopLength(Run& run, Loop& loop) {
  if (loop.length >= 0) return loop.length;
  if (loop.test == nullptr && LengthOf(loop.walk.source) >= 0) return loop.length = LengthOf(loop.walk.source);
  std::vector<Value> rest(loop.ahead.begin() + static_cast<std::ptrdiff_t>(loop.next_ahead), loop.ahead.end());
  loop.ahead.clear();
  loop.next_ahead = 0;
  Value item;
  while (run.Next(loop, &item)) rest.push_back(std::move(item));
  loop.ahead = std::move(rest);
  return loop.length = loop.index + static_cast<int64_t>(loop.ahead.size());
}

// The item after the current one, which stays the next to be gone over.
const Value* Peek(Run& run, Loop& loop) {
  if (loop.next_ahead == loop.ahead.size()) {
    Value item;
    if (!run.Next(loop, &item)) return nullptr;
    loop.ahead.clear();
    loop.ahead.push_back(std::move(item));
    loop.next_ahead = 0;
  }
  return &loop.ahead[loop.next_ahead];
}

Value LoopAttribute(Run& run, const Value& of, const std::string& name) {
  Loop& loop = of.loop();
  if (name == "index") return Value::Int(loop.index);
  if (name == "index0") return Value::Int(loop.index - 1);
  if (name == "revindex") return Value::Int(LoopLength(run, loop) - loop.index + 1);
  if (name == "revindex0") return Value::Int(LoopLength(run, loop) - loop.index);
  if (name == "first") return Value::Bool(loop.index == 1);
  if (name == "last") return Value::Bool(Peek(run, loop) == nullptr);
  if (name == "length") return Value::Int(LoopLength(run, loop));
  if (name == "depth") return Value::Int(loop.level + 1);
  if (name == "depth0") return Value::Int(loop.level);
  if (name == "previtem") return loop.index == 1 ? Value::Undef("there is no previous item") : loop.previous;
  if (name == "nextitem") {
    const Value* next = Peek(run, loop);
    return next == nullptr ? Value::Undef("there is no next item") : *next;
  }
  if (name == "cycle") return BindMethod("cycle", Cycle, of);
  if (name == "changed") return BindMethod("changed", Changed, of);
  return Value();
}

Value CyclerNext(Run& run, const Value& self, const Arguments&) {
  Cycler& cycler = self.cycler();
  if (cycler.items.empty()) return run.Fail("this cycler has nothing to go through");
  return cycler.items[std::exchange(cycler.at, (cycler.at + 1) % cycler.items.size())];
}

Value CyclerReset(Run&, const Value& self, const Arguments&) {
  self.cycler().at = 0;
  return Value::None();
}

Value MacroAttribute(const Callable& macro, const std::string& name) {
  if (name == "name") return macro.name.empty() ? Value::None() : Value::Str(macro.name);
  if (name == "arguments") {
    std::vector<Value> names;
    for (const NodePtr& parameter : macro.macro->items) names.push_back(Value::Str(parameter->name));
    return Value::Tuple(std::move(names));
  }
  if (name == "catch_kwargs") return Value::Bool(macro.macro->kwargs_slot >= 0);
  if (name == "catch_varargs") return Value::Bool(macro.macro->varargs_slot >= 0);
  if (name == "caller") return Value::Bool(macro.macro->caller_slot >= 0);
  return Value();
}

}  // namespace

Value AttributeOf(Run& run, const Value& of, const std::string& name) {
  if (name.size() > 4 && name.starts_with("__") && name.ends_with("__")) {
    return Value::Undef(absl::StrCat("access to the attribute '", name, "' is unsafe"));
  }
  switch (of.kind()) {
    case Kind::kNamespace: {
      const Value* found = of.names().Find(name);
      return found == nullptr ? Value() : *found;
    }
    case Kind::kLoop:
      return LoopAttribute(run, of, name);
    case Kind::kString:
      return StringMethod(of, name);
    case Kind::kCycler:
      if (of.cycler().joins) return Value();
      if (name == "next") return BindMethod("next", CyclerNext, of);
      if (name == "reset") return BindMethod("reset", CyclerReset, of);
      if (name == "current" && !of.cycler().items.empty()) return of.cycler().items[of.cycler().at];
      return Value();
    case Kind::kCallable:
      return of.callable().macro != nullptr ? MacroAttribute(of.callable(), name) : Value();
    default:
      return ContainerMethod(of, name);
  }
}

Value BindMethod(const char* name, Callable::Native native, const Value& self) {
  auto made = std::make_shared<Callable>();
  made->name = name;
  made->native = native;
  made->self = self;
  return Value::Of(std::shared_ptr<const Callable>(std::move(made)));
}

Value Run::GetAttribute(const Value& of, const std::string& name) {
  if (of.is_undefined()) return Fail(of.why());
  Value found = AttributeOf(*this, of, name);
  if (!found.is_missing()) return found;
  if (of.is(Kind::kDict)) {
    if (const Value* value = of.dict().Find(name); value != nullptr) return *value;
  }
  return NoAttribute(of, name);
}

Value Run::GetItem(const Value& of, const Value& index) {
  switch (of.kind()) {
    case Kind::kUndefined:
      return Fail(of.why());
    case Kind::kDict:
      if (!Charge(index.weight())) return Value();
      if (const Value* value = of.dict().Find(index); value != nullptr) return *value;
      break;
    case Kind::kSequence:
    case Kind::kString: {
      const bool view = of.is(Kind::kSequence) && of.sequence().type >= SequenceType::kKeys;
      if (!index.is_integral() || view) break;
      if (of.is_string() && !Charge(of.weight())) return Value();
      const int64_t n = LengthOf(of);
      const int64_t i = index.integer() < 0 ? index.integer() + n : index.integer();
      if (i < 0 || i >= n) break;
      if (of.is(Kind::kSequence)) return of.sequence().items[i];
      const size_t begin = ByteOfCharacter(of.bytes(), i);
      const size_t size = ByteOfCharacter(std::string_view(of.bytes()).substr(begin), 1);
      return Value::Str(of.text().Part(begin, begin + size), of.safe());
    }
    default:
      break;
  }
  if (index.is_string()) {
    Value found = AttributeOf(*this, of, index.bytes());
    if (!found.is_missing()) return found;
    return NoAttribute(of, index.bytes());
  }
  return Value::Undef(absl::StrCat("'", TypeName(of), " object' has no such element"));
}

}  // namespace duo::jinja
