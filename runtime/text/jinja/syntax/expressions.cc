#include "runtime/text/jinja/syntax/expressions.h"

#include <utility>

#include "runtime/text/jinja/syntax/expression_parser.h"

namespace duo::jinja {
NodePtr ExpressionParser::Expression(bool with_choice) {
  TokenReader::Depth depth(&in_);
  return with_choice ? Choice() : Or();
}

NodePtr ExpressionParser::TupleOrExpression(const TupleRule& rule) {
  TokenReader::Depth depth(&in_);
  const size_t offset = in_.current().offset;
  Nodes items;
  bool is_tuple = false;
  while (!in_.failed()) {
    if (!items.empty()) in_.ExpectOperator(",");
    if (AtTupleEnd(rule.until)) break;
    items.push_back(rule.simple ? Primary(rule.attributes) : Expression(rule.with_choice));
    if (!in_.IsOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!rule.in_parentheses) in_.Fail("expected an expression, found " + in_.Describe());
  }
  NodePtr node = MakeNode(NodeKind::kTuple, offset);
  node->items = std::move(items);
  return node;
}

bool ExpressionParser::AtTupleEnd(const char* until) const {
  return in_.Is(TokenKind::kVariableEnd) || in_.Is(TokenKind::kBlockEnd) || in_.IsOperator(")") ||
         (until != nullptr && in_.IsName(until));
}

NodePtr ExpressionParser::Choice() {
  size_t offset = in_.current().offset;
  NodePtr node = Or();
  while (in_.TakeName("if")) {
    NodePtr choice = MakeNode(NodeKind::kChoice, offset);
    choice->a = std::move(node);
    choice->b = Or();
    if (in_.TakeName("else")) choice->c = Expression(true);
    node = std::move(choice);
    offset = in_.current().offset;
  }
  return node;
}

NodePtr ExpressionParser::Or() {
  NodePtr left = And();
  while (in_.IsName("or")) {
    const size_t offset = in_.current().offset;
    in_.Advance();
    left = MakeBinary(NodeKind::kLogical, Op::kOr, std::move(left), And(), offset);
  }
  return left;
}

NodePtr ExpressionParser::And() {
  NodePtr left = Not();
  while (in_.IsName("and")) {
    const size_t offset = in_.current().offset;
    in_.Advance();
    left = MakeBinary(NodeKind::kLogical, Op::kAnd, std::move(left), Not(), offset);
  }
  return left;
}

NodePtr ExpressionParser::Not() {
  if (!in_.IsName("not")) return Compare();
  TokenReader::Depth depth(&in_);
  NodePtr node = MakeNode(NodeKind::kUnary, in_.current().offset);
  in_.Advance();
  node->op = Op::kNot;
  node->a = Not();
  return node;
}

Op ExpressionParser::CompareOperator() {
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

NodePtr ExpressionParser::Compare() {
  NodePtr first = Sum();
  const size_t offset = in_.current().offset;
  Op op = CompareOperator();
  if (op == Op::kNone) return first;
  NodePtr node = MakeNode(NodeKind::kCompare, offset);
  node->a = std::move(first);
  for (; op != Op::kNone; op = CompareOperator()) {
    node->ops.push_back(op);
    node->items.push_back(Sum());
  }
  return node;
}

template <typename Operand, size_t n>
NodePtr ExpressionParser::Chain(const std::pair<const char*, Op> (&ops)[n], Operand operand) {
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

NodePtr ExpressionParser::Sum() {
  static constexpr std::pair<const char*, Op> kOps[] = {{"+", Op::kAdd}, {"-", Op::kSub}};
  return Chain(kOps, [this] { return Concat(); });
}

NodePtr ExpressionParser::Concat() {
  const size_t offset = in_.current().offset;
  NodePtr first = Product();
  if (!in_.IsOperator("~")) return first;
  NodePtr node = MakeNode(NodeKind::kConcat, offset);
  node->items.push_back(std::move(first));
  while (in_.TakeOperator("~")) node->items.push_back(Product());
  return node;
}

NodePtr ExpressionParser::Product() {
  static constexpr std::pair<const char*, Op> kOps[] = {
      {"*", Op::kMul}, {"/", Op::kDiv}, {"//", Op::kFloorDiv}, {"%", Op::kMod}};
  return Chain(kOps, [this] { return Power(); });
}

NodePtr ExpressionParser::Power() {
  static constexpr std::pair<const char*, Op> kOps[] = {{"**", Op::kPow}};
  return Chain(kOps, [this] { return Unary(true); });
}

NodePtr ExpressionParser::Unary(bool with_filters) {
  TokenReader::Depth depth(&in_);
  NodePtr node;
  if (in_.IsOperator("-") || in_.IsOperator("+")) {
    node = MakeNode(NodeKind::kUnary, in_.current().offset);
    node->op = in_.IsOperator("-") ? Op::kNeg : Op::kPos;
    in_.Advance();
    node->a = Unary(false);
  } else {
    node = Primary(false);
  }
  node = Postfix(std::move(node));
  return with_filters ? FiltersAndTests(std::move(node)) : std::move(node);
}

namespace {

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
  return ExpressionParser(in).TupleOrExpression({.with_choice = with_choice, .until = until});
}

NodePtr ParseTarget(TokenReader& in, bool attributes, const char* until) {
  NodePtr target = ExpressionParser(in).TupleOrExpression({.simple = true, .attributes = attributes, .until = until});
  if (!in.failed() && !Assignable(*target)) in.Fail("this cannot be assigned to", target->offset);
  return target;
}

NodePtr ParseFilters(TokenReader& in, bool first) { return ExpressionParser(in).Filters(nullptr, first); }

}  // namespace duo::jinja
