// What a template's statements do.
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/walk.h"
#include "runtime/text/jinja/run.h"
#include "runtime/text/jinja/values/print.h"

namespace duo::jinja {

Run::~Run() {
  // Namespaces may hold each other, and so may the variables that macros look into: all let go of what they hold first.
  for (const auto& names : namespaces_) names->attributes.clear();
  for (const auto& variables : owned_) variables->slots.clear();
}

Text Run::Render(const ResolvedTemplate& resolved) {
  Text out;
  out_ = &out;
  variables_ = NewVariables(resolved.slots, nullptr);
  Enter(resolved.scope);
  Execute(resolved.body);
  return out;
}

Value Run::Fail(std::string message) {
  if (!failed_) error_ = {std::move(message), at_};
  failed_ = true;
  return Value::Undef("");
}

bool Run::Recover(std::string* why) {
  if (!failed_) return false;
  *why = error_.message;
  failed_ = false;
  return true;
}

bool Run::Charge(int64_t work) {
  steps_ += work;
  if (steps_ > limits_.steps && !failed_) Fail(absl::StrCat("the template takes more than ", limits_.steps, " steps"));
  return !failed_;
}

bool Run::CanMake(size_t bytes) {
  if (bytes > limits_.bytes) {
    Fail(absl::StrCat("the template makes a text of more than ", limits_.bytes, " bytes"));
    return false;
  }
  return Charge(static_cast<int64_t>(bytes / 32));
}

Value Run::Make(Text text, bool safe) {
  if (!CanMake(text.size())) return Value::Undef("");
  return Value::Str(std::move(text), safe);
}

Value Run::MakeList(std::vector<Value> items) {
  if (!CanMake(items.size())) return Value::Undef("");
  return Value::List(std::move(items));
}

bool Run::Str(const Value& value, Text* out) {
  std::string why;
  const size_t before = out->size();
  if (!AppendStr(value, limits_.bytes, out, &why)) {
    Fail(std::move(why));
    return false;
  }
  return CanMake(out->size() - before);
}

Value& Run::At(const Place& place) {
  Variables* variables = variables_;
  for (int i = 0; i < place.up; ++i) variables = variables->outer;
  return variables->slots[place.slot];
}

void Run::Enter(const Scope& scope) {
  for (const Load& load : scope.loads) {
    Value& slot = variables_->slots[load.slot];
    switch (load.from) {
      case Load::From::kContext: {
        const auto found = context_.find(load.name);
        slot = found == context_.end() ? Value() : found->second;
        break;
      }
      case Load::From::kOuter:
        slot = At(load.outer);
        break;
      case Load::From::kNothing:
        slot = Value();
        break;
    }
  }
}

void Run::Leave(const Scope& scope) {
  for (const int slot : scope.slots) variables_->slots[slot] = Value();
}

Run::Signal Run::Execute(const Nodes& body) {
  for (const NodePtr& node : body) {
    const Signal signal = Execute(*node);
    if (failed_ || signal != Signal::kGoOn) return signal;
  }
  return Signal::kGoOn;
}

Run::Signal Run::Execute(const Node& node) {
  const Level level(this);
  at_ = node.offset;
  if (!Charge(1)) return Signal::kGoOn;
  switch (node.kind) {
    case NodeKind::kOutput:
      ExecuteOutput(node);
      return Signal::kGoOn;
    case NodeKind::kFor:
      return ExecuteFor(node);
    case NodeKind::kIf:
      return ExecuteIf(node);
    case NodeKind::kMacro:
      At(node.place) = MakeMacro(node);
      return Signal::kGoOn;
    case NodeKind::kCallBlock: {
      const Value caller = MakeMacro(node);
      const Value callee = Evaluate(*node.a->a);
      Arguments arguments;
      if (failed_ || !EvaluateArguments(node.a->call, &arguments)) return Signal::kGoOn;
      arguments.named.emplace_back("caller", caller);
      at_ = node.a->offset;
      WriteBlock(Call(callee, arguments));
      return Signal::kGoOn;
    }
    case NodeKind::kGeneration: {
      const Value body = MakeMacro(node);
      Write(Call(body, {}));
      return Signal::kGoOn;
    }
    case NodeKind::kFilterBlock:
      return ExecuteFilterBlock(node);
    case NodeKind::kWith:
      return ExecuteWith(node);
    case NodeKind::kSet:
      ExecuteSet(node);
      return Signal::kGoOn;
    case NodeKind::kSetBlock:
      return ExecuteSetBlock(node);
    case NodeKind::kBreak:
      return Signal::kBreak;
    case NodeKind::kContinue:
      return Signal::kContinue;
    default:
      Fail("this is no statement");
      return Signal::kGoOn;
  }
}

void Run::Write(const Value& value) {
  if (failed_) return;
  if (out_->size() > limits_.bytes) {
    CanMake(out_->size());
    return;
  }
  Str(value, out_);
}

void Run::WriteBlock(const Value& value) {
  if (!failed_ && !value.is_string())
    Fail(absl::StrCat("expected a block's text, found a value of type ", TypeName(value)));
  Write(value);
}

void Run::ExecuteOutput(const Node& node) {
  for (const NodePtr& item : node.items) {
    const Value value = item->kind == NodeKind::kData ? item->value : Evaluate(*item);
    at_ = item->offset;
    Write(value);
    if (failed_) return;
  }
}

Run::Signal Run::ExecuteIf(const Node& node) {
  const Node* branch = &node;
  for (size_t i = 0;; branch = node.items[i++].get()) {
    const bool holds = IsTrue(Evaluate(*branch->a));
    if (failed_) return Signal::kGoOn;
    if (holds) return Execute(branch->body);
    if (i == node.items.size()) return Execute(node.other);
  }
}

Run::Signal Run::ExecuteFor(const Node& node) {
  Value iterable = Evaluate(*node.b);
  at_ = node.b->offset;
  if (failed_) return Signal::kGoOn;
  if (!node.recursive) return ExecuteLoop(node, std::move(iterable), variables_, 0);
  Write(CallLoop(node, iterable, variables_, 0));
  return Signal::kGoOn;
}

// The next item that the loop's condition, if it has one, lets through.
bool Run::Next(Loop& loop, Value* item) {
  if (loop.next_ahead < loop.ahead.size()) {
    *item = loop.ahead[loop.next_ahead++];
    if (loop.next_ahead == loop.ahead.size()) {
      loop.ahead.clear();
      loop.next_ahead = 0;
    }
    return true;
  }
  while (NextOf(*this, loop.walk, item)) {
    if (loop.test == nullptr) return true;
    Variables* const before = std::exchange(variables_, loop.test);
    const Node& target = *loop.statement->items[0];
    Assign(target, *item);
    const bool holds = !failed_ && IsTrue(Evaluate(*loop.statement->c));
    variables_ = before;
    if (failed_) return false;
    if (!holds) continue;
    if (target.kind == NodeKind::kTuple && !item->is_tuple()) {  // what was taken apart comes back as a tuple
      std::vector<Value> items;
      if (!ItemsOf(*this, *item, &items)) return false;
      *item = Value::Tuple(std::move(items));
    }
    return true;
  }
  return false;
}

Run::Signal Run::ExecuteLoop(const Node& node, Value iterable, Variables* outer, int level) {
  if (!IsIterable(iterable)) {
    Fail(absl::StrCat("a value of type ", TypeName(iterable), " cannot be looped over"));
    return Signal::kGoOn;
  }
  auto loop = std::make_shared<Loop>();
  loop->statement = &node;
  loop->outer = outer;
  loop->walk.source = std::move(iterable);
  loop->level = level;
  if (node.recursive) Hold(outer);
  if (node.c != nullptr) {
    Hold(outer);
    loop->test = NewVariables(node.test_slots, outer);
    loop->test->held = true;
    Variables* const before = std::exchange(variables_, loop->test);
    Enter(node.test_scope);
    variables_ = before;
  }
  bool completed = false;  // an iteration that was not cut short
  Value item;
  while (Next(*loop, &item)) {
    loop->previous = std::move(loop->current);
    loop->current = item;
    ++loop->index;
    variables_->slots[node.loop_slot] = Value::Of(loop);
    at_ = node.offset;
    Assign(*node.a, item);
    Enter(node.scope);
    const Signal signal = Execute(node.body);
    if (failed_ || signal == Signal::kBreak) break;
    completed |= signal == Signal::kGoOn;
  }
  if (failed_) return Signal::kGoOn;
  Leave(node.scope);
  if (completed || node.other.empty()) return Signal::kGoOn;
  Enter(node.other_scope);
  const Signal signal = Execute(node.other);
  Leave(node.other_scope);
  return signal;
}

Run::Signal Run::ExecuteWith(const Node& node) {
  Enter(node.scope);
  for (size_t i = 0; i < node.items.size(); ++i) {
    const Value value = Evaluate(*node.defaults[i]);
    if (failed_) return Signal::kGoOn;
    Assign(*node.items[i], value);
  }
  const Signal signal = Execute(node.body);
  if (!failed_) Leave(node.scope);
  return signal;
}

Run::Signal Run::Capture(const Node& node, Value* value) {
  Enter(node.scope);
  Text body;
  Text* const before = std::exchange(out_, &body);
  const Signal signal = Execute(node.body);
  out_ = before;
  if (!failed_ && signal == Signal::kGoOn) *value = Make(std::move(body));
  return signal;
}

Run::Signal Run::ExecuteSetBlock(const Node& node) {
  Value value;
  const Signal signal = Capture(node, &value);
  if (failed_ || signal != Signal::kGoOn) return signal;
  if (node.b != nullptr) value = EvaluateFilter(*node.b, &value);
  if (failed_ || !CheckNamespaces(*node.a)) return Signal::kGoOn;
  Assign(*node.a, value);
  Leave(node.scope);
  return Signal::kGoOn;
}

Run::Signal Run::ExecuteFilterBlock(const Node& node) {
  Value value;
  const Signal signal = Capture(node, &value);
  if (failed_ || signal != Signal::kGoOn) return signal;
  WriteBlock(EvaluateFilter(*node.a, &value));
  if (!failed_) Leave(node.scope);
  return Signal::kGoOn;
}

bool Run::CheckNamespaces(const Node& target) {
  if (target.kind == NodeKind::kTuple) {
    for (const NodePtr& item : target.items) {
      if (!CheckNamespaces(*item)) return false;
    }
  } else if (target.kind == NodeKind::kAttribute && !At(target.place).is(Kind::kNamespace)) {
    at_ = target.offset;
    Fail(absl::StrCat(target.name, " is no namespace: its attributes cannot be assigned to"));
    return false;
  }
  return true;
}

void Run::ExecuteSet(const Node& node) {
  if (!CheckNamespaces(*node.a)) return;
  const Value value = Evaluate(*node.b);
  at_ = node.offset;
  if (!failed_) Assign(*node.a, value);
}

void Run::Assign(const Node& target, const Value& value) {
  switch (target.kind) {
    case NodeKind::kAttribute: {
      if (target.attribute.starts_with('_')) {
        Fail("a namespace's attributes may not begin with an underscore");
        return;
      }
      Namespace& names = At(target.place).names();
      if (Value* held = names.Find(target.attribute); held != nullptr) {
        *held = value;
      } else {
        names.attributes.emplace_back(target.attribute, value);
      }
      return;
    }
    case NodeKind::kTuple: {
      std::vector<Value> items;
      if (!ItemsOf(*this, value, &items)) return;
      if (items.size() != target.items.size()) {
        Fail(absl::StrCat("expected ", target.items.size(), " values to assign, found ", items.size()));
        return;
      }
      for (size_t i = 0; i < items.size(); ++i) Assign(*target.items[i], items[i]);
      return;
    }
    default:
      At(target.place) = value;
  }
}

}  // namespace duo::jinja
