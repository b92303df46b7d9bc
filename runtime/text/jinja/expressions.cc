// What a template's expressions give.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/library/walk.h"
#include "runtime/text/jinja/run.h"

namespace duo::jinja {

Value Run::Evaluate(const Node& node) {
  if (failed_) return Value::Undef("");
  const Level level(this);
  at_ = node.offset;
  if (!Charge(1)) return Value::Undef("");
  Value value = EvaluateKind(node);
  if (failed_) return Value::Undef("");
  constexpr int kDeepest = 200;
  if (value.depth() > kDeepest) return Fail("the template puts containers too deeply into each other");
  return value;
}

Value Run::EvaluateKind(const Node& node) {
  switch (node.kind) {
    case NodeKind::kConstant:
    case NodeKind::kData:
      return node.value;
    case NodeKind::kName: {
      const Value& value = At(node.place);
      return value.is_missing() ? Value::Undef(absl::StrCat("'", node.name, "' is undefined")) : value;
    }
    case NodeKind::kTuple:
    case NodeKind::kList: {
      std::vector<Value> items;
      if (!EvaluateItems(node.items, &items)) return Value();
      return node.kind == NodeKind::kList ? Value::List(std::move(items)) : Value::Tuple(std::move(items));
    }
    case NodeKind::kDict:
      return EvaluateDict(node);
    case NodeKind::kUnary: {
      const Value a = Evaluate(*node.a);
      at_ = node.offset;
      return failed_ ? Value() : ApplyUnary(*this, node.op, a);
    }
    case NodeKind::kBinary: {
      const Value a = Evaluate(*node.a);
      const Value b = Evaluate(*node.b);
      at_ = node.offset;
      return failed_ ? Value() : ApplyBinary(*this, node.op, a, b);
    }
    case NodeKind::kLogical: {
      Value a = Evaluate(*node.a);
      if (failed_ || IsTrue(a) == (node.op == Op::kOr)) return a;
      return Evaluate(*node.b);
    }
    case NodeKind::kConcat:
      return EvaluateConcat(node);
    case NodeKind::kCompare:
      return EvaluateCompare(node);
    case NodeKind::kGetAttr: {
      const Value of = Evaluate(*node.a);
      at_ = node.offset;
      return failed_ ? Value() : GetAttribute(of, node.name);
    }
    case NodeKind::kGetItem:
      return EvaluateGetItem(node);
    case NodeKind::kCall: {
      const Value callee = Evaluate(*node.a);
      Arguments arguments;
      if (failed_ || !EvaluateArguments(node.call, &arguments)) return Value();
      at_ = node.a->offset;
      return Call(callee, arguments);
    }
    case NodeKind::kFilter:
      return EvaluateFilter(node, nullptr);
    case NodeKind::kTest:
      return EvaluateTest(node);
    case NodeKind::kChoice: {
      const bool holds = IsTrue(Evaluate(*node.b));
      if (failed_) return Value();
      if (holds) return Evaluate(*node.a);
      return node.c != nullptr ? Evaluate(*node.c) : Value::Undef("this `if` was false, and there is no `else`");
    }
    default:
      return Fail("this is no expression");
  }
}

bool Run::EvaluateItems(const Nodes& nodes, std::vector<Value>* items) {
  for (const NodePtr& node : nodes) {
    if (node->kind == NodeKind::kSlice) {
      Fail("a slice cannot be part of a tuple");
      return false;
    }
    items->push_back(Evaluate(*node));
    if (failed_) return false;
  }
  return true;
}

Value Run::EvaluateDict(const Node& node) {
  auto dict = std::make_shared<Dict>();
  for (size_t i = 0; i + 1 < node.items.size(); i += 2) {
    Value key = Evaluate(*node.items[i]);
    Value value = Evaluate(*node.items[i + 1]);
    if (failed_ || !CheckKey(*this, key)) return Value();
    dict->Set(std::move(key), std::move(value));
  }
  return Value::Of(std::shared_ptr<const Dict>(std::move(dict)));
}

Value Run::EvaluateConcat(const Node& node) {
  std::vector<Value> items;
  if (!EvaluateItems(node.items, &items)) return Value();
  Text out;
  for (const Value& item : items) {
    if (!Str(item, &out)) return Value();
  }
  return Make(std::move(out));
}

// a < b < c holds if both do; b is looked at once, and c only if the first holds.
Value Run::EvaluateCompare(const Node& node) {
  Value left = Evaluate(*node.a);
  for (size_t i = 0; i < node.ops.size() && !failed_; ++i) {
    Value right = Evaluate(*node.items[i]);
    if (failed_) break;
    at_ = node.offset;
    const bool holds = Compare(*this, node.ops[i], left, right);
    if (failed_) break;
    if (!holds || i + 1 == node.ops.size()) return Value::Bool(holds);
    left = std::move(right);
  }
  return Value();
}

Value Run::EvaluateGetItem(const Node& node) {
  const Value of = Evaluate(*node.a);
  if (failed_) return Value();
  if (node.b->kind != NodeKind::kSlice) {
    const Value index = Evaluate(*node.b);
    at_ = node.offset;
    return failed_ ? Value() : GetItem(of, index);
  }
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    const NodePtr& bound = node.b->items[i];
    bounds[i] = bound == nullptr ? Value::None() : Evaluate(*bound);
    if (failed_) return Value();
  }
  at_ = node.offset;
  return Slice(*this, of, bounds[0], bounds[1], bounds[2]);
}

bool Run::EvaluateArguments(const CallArguments& call, Arguments* arguments) {
  if (!EvaluateItems(call.positional, &arguments->positional)) return false;
  for (const auto& [name, node] : call.named) {
    arguments->named.emplace_back(name, Evaluate(*node));
    if (failed_) return false;
  }
  if (call.star != nullptr) {
    const Value star = Evaluate(*call.star);
    if (failed_ || !ItemsOf(*this, star, &arguments->positional)) return false;
  }
  if (call.double_star == nullptr) return true;
  const Value named = Evaluate(*call.double_star);
  if (failed_) return false;
  if (!named.is(Kind::kDict)) {
    Fail("what stands behind ** is no dict");
    return false;
  }
  for (const auto& [key, value] : named.dict().entries()) {
    if (!key.is_string()) {
      Fail("an argument's name is no string");
      return false;
    }
    for (const auto& [other, ignored] : arguments->named) {
      if (other != key.bytes()) continue;
      Fail(absl::StrCat("the argument ", other, " is given twice"));
      return false;
    }
    arguments->named.emplace_back(key.bytes(), value);
  }
  return !failed_;
}

// body: what the innermost filter of a filter block is put on.
Value Run::EvaluateFilter(const Node& node, const Value* body) {
  const Node* inner = node.a.get();
  DUO_CHECK(inner != nullptr || body != nullptr);  // only a filter block's innermost filter is on nothing
  const Value of = inner == nullptr                                      ? *body
                   : body != nullptr && inner->kind == NodeKind::kFilter ? EvaluateFilter(*inner, body)
                                                                         : Evaluate(*inner);
  if (failed_) return Value();
  at_ = node.offset;
  if (!HasFilter(node.name)) return Fail(absl::StrCat("there is no filter ", node.name));
  Arguments arguments;
  if (!EvaluateArguments(node.call, &arguments)) return Value();
  at_ = node.offset;
  return Filter(node.name, of, arguments);
}

Value Run::EvaluateTest(const Node& node) {
  const Value of = Evaluate(*node.a);
  if (failed_) return Value();
  at_ = node.offset;
  if (!HasTest(node.name)) return Fail(absl::StrCat("there is no test ", node.name));
  Arguments arguments;
  if (!EvaluateArguments(node.call, &arguments)) return Value();
  at_ = node.offset;
  return Value::Bool(Test(node.name, of, arguments));
}

}  // namespace duo::jinja
