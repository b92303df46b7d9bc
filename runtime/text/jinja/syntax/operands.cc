#include <utility>

#include "runtime/text/jinja/syntax/expression_parser.h"

namespace duo::jinja {
namespace {

NodePtr MakeConstant(Value value, size_t offset) {
  NodePtr node = MakeNode(NodeKind::kConstant, offset);
  node->value = std::move(value);
  return node;
}

}  // namespace

NodePtr ExpressionParser::Primary(bool attributes) {
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
    NodePtr node = TupleOrExpression({.in_parentheses = true});
    in_.ExpectOperator(")");
    return node;
  }
  if (in_.IsOperator("[")) return Brackets(NodeKind::kList, "]");
  if (in_.IsOperator("{")) return Brackets(NodeKind::kDict, "}");
  in_.Fail("expected an expression, found " + in_.Describe());
  return MakeConstant(Value::None(), token.offset);
}

NodePtr ExpressionParser::Named(const Token& token, bool attributes) {
  const std::string& name = token.text;
  if (name == "true" || name == "True") return MakeConstant(Value::Bool(true), token.offset);
  if (name == "false" || name == "False") return MakeConstant(Value::Bool(false), token.offset);
  if (name == "none" || name == "None") return MakeConstant(Value::None(), token.offset);
  NodePtr node = MakeNode(NodeKind::kName, token.offset);
  node->name = name;
  if (attributes && in_.TakeOperator(".")) {
    node->kind = NodeKind::kAttribute;
    node->attribute = in_.AnyName();
  }
  return node;
}

NodePtr ExpressionParser::Brackets(NodeKind kind, const char* close) {
  NodePtr node = MakeNode(kind, in_.current().offset);
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

NodePtr ExpressionParser::Postfix(NodePtr node) {
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

NodePtr ExpressionParser::FiltersAndTests(NodePtr node) {
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

NodePtr ExpressionParser::Filters(NodePtr node, bool first) {
  while (!in_.failed() && (first || in_.IsOperator("|"))) {
    if (!first) in_.Advance();
    first = false;
    NodePtr filter = MakeNode(NodeKind::kFilter, in_.current().offset);
    filter->name = DottedName();
    filter->a = std::move(node);
    if (in_.IsOperator("(")) Arguments(&filter->call);
    node = std::move(filter);
  }
  return node;
}

NodePtr ExpressionParser::Call(NodePtr callee) {
  NodePtr node = MakeNode(NodeKind::kCall, in_.current().offset);
  node->a = std::move(callee);
  Arguments(&node->call);
  return node;
}

NodePtr ExpressionParser::Subscript(NodePtr of) {
  const size_t offset = in_.current().offset;
  if (in_.TakeOperator(".")) {
    const Token token = in_.current();
    if (token.kind == TokenKind::kName) {
      in_.Advance();
      NodePtr node = MakeNode(NodeKind::kGetAttr, token.offset);
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
    index = MakeNode(NodeKind::kTuple, offset);
    index->items = std::move(items);
  }
  return MakeBinary(NodeKind::kGetItem, Op::kNone, std::move(of), std::move(index), offset);
}

NodePtr ExpressionParser::SubscriptItem() {
  const size_t offset = in_.current().offset;
  NodePtr start;
  if (!in_.IsOperator(":")) {
    start = Expression(true);
    if (!in_.IsOperator(":")) return start;
  }
  in_.Advance();
  const auto at_end = [this] { return in_.IsOperator("]") || in_.IsOperator(",") || in_.failed(); };
  NodePtr node = MakeNode(NodeKind::kSlice, offset);
  node->items.push_back(std::move(start));
  node->items.push_back(in_.IsOperator(":") || at_end() ? nullptr : Expression(true));
  node->items.push_back(in_.TakeOperator(":") && !at_end() ? Expression(true) : nullptr);
  return node;
}

NodePtr ExpressionParser::Test(NodePtr of) {
  TokenReader::Depth depth(&in_);
  in_.Advance();
  const size_t offset = in_.current().offset;
  const bool negated = in_.TakeName("not");
  NodePtr node = MakeNode(NodeKind::kTest, in_.current().offset);
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
  NodePtr inverse = MakeNode(NodeKind::kUnary, offset);
  inverse->op = Op::kNot;
  inverse->a = std::move(node);
  return inverse;
}

std::string ExpressionParser::DottedName() {
  std::string name = in_.AnyName();
  while (in_.TakeOperator(".")) name += "." + in_.AnyName();
  return name;
}

void ExpressionParser::Arguments(CallArguments* call) {
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

}  // namespace duo::jinja
