// ExpressionParser: the grammar of expressions, a function a rule, for the functions of expressions.h alone. The ranks
// of operators are in expressions.cc, what stands between operators in operands.cc.
//
// Each rule reads from the reader's current token on and leaves the reader behind what it read. After an error the tree
// is not to be used. Holds the reader by reference; used on one thread.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "runtime/text/jinja/syntax/ast.h"
#include "runtime/text/jinja/syntax/token_reader.h"

namespace duo::jinja {

inline NodePtr MakeBinary(NodeKind kind, Op op, NodePtr a, NodePtr b, size_t offset) {
  NodePtr node = MakeNode(kind, offset);
  node->op = op;
  node->a = std::move(a);
  node->b = std::move(b);
  return node;
}

class ExpressionParser {
 public:
  // What a tuple's items may be, and where the tuple ends.
  struct TupleRule {
    bool simple = false;          // items are primaries, not expressions
    bool with_choice = true;      // items may be `a if b else c`
    bool in_parentheses = false;  // it may be empty
    bool attributes = false;      // simple items may be `namespace.name`
    const char* until = nullptr;  // a name that ends it, or null
  };

  explicit ExpressionParser(TokenReader& in) : in_(in) {}

  NodePtr Expression(bool with_choice);
  NodePtr TupleOrExpression(const TupleRule& rule);
  NodePtr Filters(NodePtr node, bool first);

 private:
  // From the loosest to the tightest.
  NodePtr Choice();
  NodePtr Or();
  NodePtr And();
  NodePtr Not();
  NodePtr Compare();
  NodePtr Sum();
  NodePtr Concat();
  NodePtr Product();
  NodePtr Power();
  NodePtr Unary(bool with_filters);
  Op CompareOperator();
  // A chain of binary operators of one rank, from left to right.
  template <typename Operand, size_t n>
  NodePtr Chain(const std::pair<const char*, Op> (&ops)[n], Operand operand);
  bool AtTupleEnd(const char* until) const;

  NodePtr Primary(bool attributes);
  NodePtr Named(const Token& token, bool attributes);
  NodePtr Brackets(NodeKind kind, const char* close);
  NodePtr Postfix(NodePtr node);
  NodePtr FiltersAndTests(NodePtr node);
  NodePtr Call(NodePtr callee);
  NodePtr Subscript(NodePtr of);
  NodePtr SubscriptItem();
  NodePtr Test(NodePtr of);
  std::string DottedName();
  void Arguments(CallArguments* call);

  TokenReader& in_;
};

}  // namespace duo::jinja
