#include "runtime/text/jinja/syntax/expressions.h"

#include <utility>

namespace duo::jinja {
namespace {

NodePtr Make(NodeKind kind, size_t offset) { return std::make_unique<Node>(kind, offset); }

NodePtr MakeConstant(Value value, size_t offset) {
  NodePtr node = Make(NodeKind::kConstant, offset);
  node->value = std::move(value);
  return node;
}

NodePtr MakeBinary(NodeKind kind, Op op, NodePtr a, NodePtr b, size_t offset) {
  NodePtr node = Make(kind, offset);
  node->op = op;
  node->a = std::move(a);
  node->b = std::move(b);
  return node;
}

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenReader& in) : in_(in) {}

  NodePtr Expression(bool with_choice) {
    TokenReader::Depth depth(&in_);
    return with_choice ? Choice() : Or();
  }

  NodePtr TupleOrExpression(bool simple, bool with_choice, const char* until, bool parentheses, bool attributes) {
    TokenReader::Depth depth(&in_);
    const size_t offset = in_.current().offset;
    Nodes items;
    bool is_tuple = false;
    while (!in_.failed()) {
      if (!items.empty()) in_.ExpectOperator(",");
      if (AtTupleEnd(until)) break;
      items.push_back(simple ? Primary(attributes) : Expression(with_choice));
      if (!in_.IsOperator(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      if (!items.empty()) return std::move(items[0]);
      if (!parentheses) in_.Fail("expected an expression, found " + in_.Describe());
    }
    NodePtr node = Make(NodeKind::kTuple, offset);
    node->items = std::move(items);
    return node;
  }

  NodePtr Filters(NodePtr node, bool first) {
    while (!in_.failed() && (first || in_.IsOperator("|"))) {
      if (!first) in_.Advance();
      first = false;
      NodePtr filter = Make(NodeKind::kFilter, in_.current().offset);
      filter->name = DottedName();
      filter->a = std::move(node);
      if (in_.IsOperator("(")) Arguments(&filter->call);
      node = std::move(filter);
    }
    return node;
  }

 private:
  bool AtTupleEnd(const char* until) const {
    return in_.Is(TokenKind::kVariableEnd) || in_.Is(TokenKind::kBlockEnd) || in_.IsOperator(")") ||
           (until != nullptr && in_.IsName(until));
  }

  std::string DottedName() {
    std::string name = in_.AnyName();
    while (in_.TakeOperator(".")) name += "." + in_.AnyName();
    return name;
  }

  NodePtr Choice() {
    size_t offset = in_.current().offset;
    NodePtr node = Or();
    while (in_.TakeName("if")) {
      NodePtr choice = Make(NodeKind::kChoice, offset);
      choice->a = std::move(node);
      choice->b = Or();
      if (in_.TakeName("else")) choice->c = Expression(true);
      node = std::move(choice);
      offset = in_.current().offset;
    }
    return node;
  }

  NodePtr Or() {
    NodePtr left = And();
    while (in_.IsName("or")) {
      const size_t offset = in_.current().offset;
      in_.Advance();
      left = MakeBinary(NodeKind::kLogical, Op::kOr, std::move(left), And(), offset);
    }
    return left;
  }

  NodePtr And() {
    NodePtr left = Not();
    while (in_.IsName("and")) {
      const size_t offset = in_.current().offset;
      in_.Advance();
      left = MakeBinary(NodeKind::kLogical, Op::kAnd, std::move(left), Not(), offset);
    }
    return left;
  }

  NodePtr Not() {
    if (!in_.IsName("not")) return Compare();
    TokenReader::Depth depth(&in_);
    NodePtr node = Make(NodeKind::kUnary, in_.current().offset);
    in_.Advance();
    node->op = Op::kNot;
    node->a = Not();
    return node;
  }

  Op CompareOperator() {
    static constexpr std::pair<const char*, Op> kOps[] = {{"==", Op::kEq}, {"!=", Op::kNe}, {"<", Op::kLt},
                                                          {"<=", Op::kLe}, {">", Op::kGt},  {">=", Op::kGe}};
    for (const auto& [text, op] : kOps) {
      if (in_.TakeOperator(text)) return op;
    }
    if (in_.TakeName("in")) return Op::kIn;
    if (in_.IsName("not") && in_.following().kind == TokenKind::kName && in_.following().text == "in") {
      in_.Advance();
      in_.Advance();
      return Op::kNotIn;
    }
    return Op::kNone;
  }

  NodePtr Compare() {
    NodePtr first = Sum();
    const size_t offset = in_.current().offset;
    NodePtr node;
    for (Op op = CompareOperator(); op != Op::kNone; op = CompareOperator()) {
      if (node == nullptr) {
        node = Make(NodeKind::kCompare, offset);
        node->a = std::move(first);
      }
      node->ops.push_back(op);
      node->items.push_back(Sum());
    }
    return node != nullptr ? std::move(node) : std::move(first);
  }

  // A chain of binary operators of one rank, from left to right.
  template <typename Operand, size_t n>
  NodePtr Chain(const std::pair<const char*, Op> (&ops)[n], Operand operand) {
    NodePtr left = operand();
    for (bool more = true; more && !in_.failed();) {
      more = false;
      for (const auto& [text, op] : ops) {
        const size_t offset = in_.current().offset;
        if (!in_.TakeOperator(text)) continue;
        left = MakeBinary(NodeKind::kBinary, op, std::move(left), operand(), offset);
        more = true;
        break;
      }
    }
    return left;
  }

  NodePtr Sum() {
    static constexpr std::pair<const char*, Op> kOps[] = {{"+", Op::kAdd}, {"-", Op::kSub}};
    return Chain(kOps, [this] { return Concat(); });
  }

  NodePtr Concat() {
    const size_t offset = in_.current().offset;
    NodePtr first = Product();
    if (!in_.IsOperator("~")) return first;
    NodePtr node = Make(NodeKind::kConcat, offset);
    node->items.push_back(std::move(first));
    while (in_.TakeOperator("~")) node->items.push_back(Product());
    return node;
  }

  NodePtr Product() {
    static constexpr std::pair<const char*, Op> kOps[] = {
        {"*", Op::kMul}, {"/", Op::kDiv}, {"//", Op::kFloorDiv}, {"%", Op::kMod}};
    return Chain(kOps, [this] { return Power(); });
  }

  NodePtr Power() {
    static constexpr std::pair<const char*, Op> kOps[] = {{"**", Op::kPow}};
    return Chain(kOps, [this] { return Unary(true); });
  }

  NodePtr Unary(bool with_filters) {
    TokenReader::Depth depth(&in_);
    NodePtr node;
    if (in_.IsOperator("-") || in_.IsOperator("+")) {
      node = Make(NodeKind::kUnary, in_.current().offset);
      node->op = in_.IsOperator("-") ? Op::kNeg : Op::kPos;
      in_.Advance();
      node->a = Unary(false);
    } else {
      node = Primary(false);
    }
    node = Postfix(std::move(node));
    return with_filters ? FiltersAndTests(std::move(node)) : std::move(node);
  }

  NodePtr Primary(bool attributes) {
    TokenReader::Depth depth(&in_);
    const Token token = in_.current();
    switch (token.kind) {
      case TokenKind::kName:
        in_.Advance();
        return Named(token, attributes);
      case TokenKind::kString: {
        std::string text;
        for (; in_.Is(TokenKind::kString); in_.Advance()) text += in_.current().text;
        return MakeConstant(Value::Str(text), token.offset);
      }
      case TokenKind::kInteger:
        in_.Advance();
        return MakeConstant(Value::Int(token.integer), token.offset);
      case TokenKind::kFloat:
        in_.Advance();
        return MakeConstant(Value::Float(token.real), token.offset);
      default:
        break;
    }
    if (in_.TakeOperator("(")) {
      NodePtr node = TupleOrExpression(false, true, nullptr, true, false);
      in_.ExpectOperator(")");
      return node;
    }
    if (in_.IsOperator("[")) return Brackets(NodeKind::kList, "]");
    if (in_.IsOperator("{")) return Brackets(NodeKind::kDict, "}");
    in_.Fail("expected an expression, found " + in_.Describe());
    return MakeConstant(Value::None(), token.offset);
  }

  NodePtr Named(const Token& token, bool attributes) {
    const std::string& name = token.text;
    if (name == "true" || name == "True") return MakeConstant(Value::Bool(true), token.offset);
    if (name == "false" || name == "False") return MakeConstant(Value::Bool(false), token.offset);
    if (name == "none" || name == "None") return MakeConstant(Value::None(), token.offset);
    NodePtr node = Make(NodeKind::kName, token.offset);
    node->name = name;
    if (attributes && in_.TakeOperator(".")) {
      node->kind = NodeKind::kAttribute;
      node->attribute = in_.AnyName();
    }
    return node;
  }

  NodePtr Brackets(NodeKind kind, const char* close) {
    NodePtr node = Make(kind, in_.current().offset);
    in_.Advance();
    while (!in_.failed() && !in_.IsOperator(close)) {
      if (!node->items.empty()) in_.ExpectOperator(",");
      if (in_.IsOperator(close)) break;
      node->items.push_back(Expression(true));
      if (kind != NodeKind::kDict) continue;
      in_.ExpectOperator(":");
      node->items.push_back(Expression(true));
    }
    in_.ExpectOperator(close);
    return node;
  }

  NodePtr Postfix(NodePtr node) {
    while (!in_.failed()) {
      if (in_.IsOperator(".") || in_.IsOperator("[")) {
        node = Subscript(std::move(node));
      } else if (in_.IsOperator("(")) {
        node = Call(std::move(node));
      } else {
        break;
      }
    }
    return node;
  }

  NodePtr FiltersAndTests(NodePtr node) {
    while (!in_.failed()) {
      if (in_.IsOperator("|")) {
        node = Filters(std::move(node), false);
      } else if (in_.IsName("is")) {
        node = Test(std::move(node));
      } else if (in_.IsOperator("(")) {
        node = Call(std::move(node));
      } else {
        break;
      }
    }
    return node;
  }

  NodePtr Call(NodePtr callee) {
    NodePtr node = Make(NodeKind::kCall, in_.current().offset);
    node->a = std::move(callee);
    Arguments(&node->call);
    return node;
  }

  NodePtr Subscript(NodePtr of) {
    const size_t offset = in_.current().offset;
    if (in_.TakeOperator(".")) {
      const Token token = in_.current();
      if (token.kind == TokenKind::kName) {
        in_.Advance();
        NodePtr node = Make(NodeKind::kGetAttr, token.offset);
        node->name = token.text;
        node->a = std::move(of);
        return node;
      }
      if (token.kind != TokenKind::kInteger) in_.Fail("expected a name or a number, found " + in_.Describe());
      in_.Advance();
      return MakeBinary(NodeKind::kGetItem, Op::kNone, std::move(of), MakeConstant(Value::Int(token.integer), offset),
                        offset);
    }
    in_.Advance();
    Nodes items;
    while (!in_.failed() && !in_.IsOperator("]")) {
      if (!items.empty()) in_.ExpectOperator(",");
      items.push_back(SubscriptItem());
    }
    in_.ExpectOperator("]");
    NodePtr index;
    if (items.size() == 1) {
      index = std::move(items[0]);
    } else {
      index = Make(NodeKind::kTuple, offset);
      index->items = std::move(items);
    }
    return MakeBinary(NodeKind::kGetItem, Op::kNone, std::move(of), std::move(index), offset);
  }

  NodePtr SubscriptItem() {
    const size_t offset = in_.current().offset;
    NodePtr start;
    if (!in_.IsOperator(":")) {
      start = Expression(true);
      if (!in_.IsOperator(":")) return start;
    }
    in_.Advance();
    const auto at_end = [this] { return in_.IsOperator("]") || in_.IsOperator(",") || in_.failed(); };
    NodePtr node = Make(NodeKind::kSlice, offset);
    node->items.push_back(std::move(start));
    node->items.push_back(in_.IsOperator(":") || at_end() ? nullptr : Expression(true));
    node->items.push_back(in_.TakeOperator(":") && !at_end() ? Expression(true) : nullptr);
    return node;
  }

  NodePtr Test(NodePtr of) {
    TokenReader::Depth depth(&in_);
    in_.Advance();
    const size_t offset = in_.current().offset;
    const bool negated = in_.TakeName("not");
    NodePtr node = Make(NodeKind::kTest, in_.current().offset);
    node->name = DottedName();
    node->a = std::move(of);
    const bool argument = in_.Is(TokenKind::kString) || in_.Is(TokenKind::kInteger) || in_.Is(TokenKind::kFloat) ||
                          in_.IsOperator("[") || in_.IsOperator("{") ||
                          (in_.Is(TokenKind::kName) && !in_.IsName("else") && !in_.IsName("or") && !in_.IsName("and"));
    if (in_.IsOperator("(")) {
      Arguments(&node->call);
    } else if (in_.IsName("is")) {
      in_.Fail("tests cannot be chained with is");
    } else if (argument) {
      node->call.positional.push_back(Postfix(Primary(false)));
    }
    if (!negated) return node;
    NodePtr inverse = Make(NodeKind::kUnary, offset);
    inverse->op = Op::kNot;
    inverse->a = std::move(node);
    return inverse;
  }

  void Arguments(CallArguments* call) {
    in_.ExpectOperator("(");
    bool first = true;
    while (!in_.failed() && !in_.IsOperator(")")) {
      if (!first) {
        in_.ExpectOperator(",");
        if (in_.IsOperator(")")) break;
      }
      first = false;
      const size_t offset = in_.current().offset;
      if (in_.TakeOperator("*")) {
        if (call->star != nullptr || call->double_star != nullptr) in_.Fail("a second * among arguments", offset);
        call->star = Expression(true);
      } else if (in_.TakeOperator("**")) {
        if (call->double_star != nullptr) in_.Fail("a second ** among arguments", offset);
        call->double_star = Expression(true);
      } else if (in_.Is(TokenKind::kName) && in_.following().kind == TokenKind::kOperator &&
                 in_.following().text == "=") {
        if (call->double_star != nullptr) in_.Fail("an argument behind **", offset);
        std::string name = in_.AnyName();
        in_.Advance();
        for (const auto& [other, value] : call->named) {
          if (other == name) in_.Fail("the argument " + name + " is given twice", offset);
        }
        call->named.emplace_back(std::move(name), Expression(true));
      } else {
        if (call->star != nullptr || call->double_star != nullptr || !call->named.empty())
          in_.Fail("an argument without a name behind one with a name", offset);
        call->positional.push_back(Expression(true));
      }
    }
    in_.ExpectOperator(")");
  }

  TokenReader& in_;
};

bool Assignable(const Node& node) {
  if (node.kind == NodeKind::kName || node.kind == NodeKind::kAttribute) return true;
  if (node.kind != NodeKind::kTuple) return false;
  for (const NodePtr& item : node.items) {
    if (!Assignable(*item)) return false;
  }
  return true;
}

}  // namespace

NodePtr ParseExpression(TokenReader& in, bool with_choice) { return ExpressionParser(in).Expression(with_choice); }

NodePtr ParseTupleOrExpression(TokenReader& in, bool with_choice, const char* until) {
  return ExpressionParser(in).TupleOrExpression(false, with_choice, until, false, false);
}

NodePtr ParseTarget(TokenReader& in, bool attributes, const char* until) {
  NodePtr target = ExpressionParser(in).TupleOrExpression(true, true, until, false, attributes);
  if (!in.failed() && !Assignable(*target)) in.Fail("this cannot be assigned to", target->offset);
  return target;
}

NodePtr ParseFilters(TokenReader& in, bool first) { return ExpressionParser(in).Filters(nullptr, first); }

}  // namespace duo::jinja
