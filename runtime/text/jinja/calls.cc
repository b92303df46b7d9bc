// Calls: macros, recursive loops, and the variables that both have of their own.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/run.h"

namespace duo::jinja {

Variables* Run::NewVariables(int slots, Variables* outer) {
  Charge(slots / 4 + 1);
  owned_.push_back(std::make_unique<Variables>(Variables{std::vector<Value>(slots), outer, false}));
  return owned_.back().get();
}

void Run::DropVariables(Variables* variables) {
  if (variables->held) return;
  // The youngest that no macro holds are the last ones, so this looks at few.
  const auto found = std::find_if(owned_.rbegin(), owned_.rend(), [&](const auto& v) { return v.get() == variables; });
  owned_.erase(std::next(found).base());
}

void Run::Hold(Variables* variables) {
  for (; variables != nullptr && !variables->held; variables = variables->outer) variables->held = true;
}

std::shared_ptr<Namespace> Run::NewNamespace() {
  namespaces_.push_back(std::make_shared<Namespace>());
  return namespaces_.back();
}

Value Run::MakeMacro(const Node& node) {
  Hold(variables_);
  auto made = std::make_shared<Callable>();
  if (node.kind == NodeKind::kMacro) made->name = node.name;
  made->macro = &node;
  made->outer = variables_;
  return Value::Of(std::shared_ptr<const Callable>(std::move(made)));
}

Value Run::Call(const Value& callee, const Arguments& arguments) {
  if (failed_) return Value::Undef("");
  const Level level(this);
  const size_t at = at_;
  Value result;
  switch (callee.kind()) {
    case Kind::kUndefined:
      return Fail(callee.why());
    case Kind::kCallable: {
      const Callable& function = callee.callable();
      result =
          function.macro != nullptr ? CallMacro(function, arguments) : function.native(*this, function.self, arguments);
      break;
    }
    case Kind::kLoop: {
      Loop& loop = callee.loop();
      if (!loop.statement->recursive) return Fail("this loop is not recursive, so it cannot be called");
      if (arguments.positional.size() != 1 || !arguments.named.empty())
        return Fail("a loop is called with what it shall go over");
      result = CallLoop(*loop.statement, arguments.positional[0], loop.outer, loop.level + 1);
      break;
    }
    case Kind::kCycler:
      result = CallCycler(*this, callee.cycler());
      break;
    default:
      return Fail(absl::StrCat("a value of type ", TypeName(callee), " cannot be called"));
  }
  at_ = at;
  return result;
}

Value Run::CallMacro(const Callable& macro, const Arguments& arguments) {
  const Node& node = *macro.macro;
  const std::string name = macro.name.empty() ? "the block" : "the macro " + macro.name;
  std::vector<bool> used(arguments.named.size(), false);
  const auto take = [&](const std::string& wanted, Value* value) {
    for (size_t i = 0; i < used.size(); ++i) {
      if (arguments.named[i].first != wanted || used[i]) continue;
      used[i] = true;
      *value = arguments.named[i].second;
      return true;
    }
    return false;
  };
  const size_t count = node.items.size(), given = arguments.positional.size();
  Variables* const inside = NewVariables(node.function_slots, macro.outer);
  Variables* const before = std::exchange(variables_, inside);
  Text body;
  Text* const out_before = std::exchange(out_, &body);
  Enter(node.scope);
  for (size_t i = 0; i < count; ++i) {
    Value& slot = inside->slots[node.items[i]->place.slot];
    slot = Value();
    if (i < given) {
      slot = arguments.positional[i];
    } else {
      take(node.items[i]->name, &slot);
    }
  }
  if (node.caller_slot >= 0) {
    Value caller = Value::Undef("this macro was not called by a call block");
    take("caller", &caller);
    if (caller.is_none()) caller = Value::Undef("this macro was not called by a call block");
    inside->slots[node.caller_slot] = std::move(caller);
  }
  auto rest = std::make_shared<Dict>();
  for (size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    if (node.kwargs_slot < 0) {
      Fail(absl::StrCat(name, " has no parameter ", arguments.named[i].first));
      break;
    }
    rest->Set(Value::Str(arguments.named[i].first), arguments.named[i].second);
  }
  if (node.kwargs_slot >= 0) inside->slots[node.kwargs_slot] = Value::Of(std::shared_ptr<const Dict>(std::move(rest)));
  const auto surplus = arguments.positional.begin() + static_cast<std::ptrdiff_t>(std::min(count, given));
  if (node.varargs_slot >= 0) {
    inside->slots[node.varargs_slot] = Value::Tuple(std::vector<Value>(surplus, arguments.positional.end()));
  } else if (given > count) {
    Fail(absl::StrCat(name, " takes at most ", count, " arguments, found ", given));
  }
  for (size_t i = 0; i < count && !failed_; ++i) {
    Value& slot = inside->slots[node.items[i]->place.slot];
    if (!slot.is_missing()) continue;
    const size_t without = count - node.defaults.size();
    if (i < without) {
      slot = Value::Undef(absl::StrCat("the parameter '", node.items[i]->name, "' was not given"));
    } else {
      Value value = Evaluate(*node.defaults[i - without]);
      inside->slots[node.items[i]->place.slot] = std::move(value);
    }
  }
  if (!failed_) Execute(node.body);
  out_ = out_before;
  variables_ = before;
  DropVariables(inside);
  return failed_ ? Value::Undef("") : Make(std::move(body));
}

Value Run::CallLoop(const Node& node, const Value& iterable, Variables* outer, int level) {
  const Level deeper(this);
  if (failed_) return Value::Undef("");
  Variables* const inside = NewVariables(node.function_slots, outer);
  Variables* const before = std::exchange(variables_, inside);
  Text body;
  Text* const out_before = std::exchange(out_, &body);
  ExecuteLoop(node, iterable, outer, level);
  out_ = out_before;
  variables_ = before;
  DropVariables(inside);
  return failed_ ? Value::Undef("") : Make(std::move(body));
}

}  // namespace duo::jinja
