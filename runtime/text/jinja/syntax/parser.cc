#include "runtime/text/jinja/syntax/parser.h"

#include <initializer_list>
#include <utility>

#include "runtime/text/jinja/syntax/expressions.h"
#include "runtime/text/jinja/syntax/token_reader.h"

namespace duo::jinja {
namespace {

// The same target once more: a for statement's condition has variables of its own.
NodePtr CopyTarget(const Node& target) {
  NodePtr copy = MakeNode(target.kind, target.offset);
  copy->name = target.name;
  for (const NodePtr& item : target.items) copy->items.push_back(CopyTarget(*item));
  return copy;
}

class StatementParser {
 public:
  explicit StatementParser(TokenReader& in) : in_(in) {}

  // Up to one of the tags named, which is then the current token; all of the template if none is.
  Nodes Body(std::initializer_list<const char*> ends, const char* opened, size_t opened_at) {
    TokenReader::Depth depth(&in_);
    Nodes body;
    while (!in_.failed()) {
      if (in_.Is(TokenKind::kEnd)) {
        if (ends.size() > 0) in_.Fail(absl::StrCat("this ", opened, " has no ", *(ends.end() - 1)), opened_at);
        break;
      }
      if (in_.Is(TokenKind::kData)) {
        NodePtr data = MakeNode(NodeKind::kData, in_.current().offset);
        data->value = Value::Str(in_.current().text);
        in_.Advance();
        AddOutput(std::move(data), &body);
      } else if (in_.Is(TokenKind::kVariableBegin)) {
        in_.Advance();
        AddOutput(ParseTupleOrExpression(in_, true), &body);
        in_.Expect(TokenKind::kVariableEnd, "}}");
      } else {
        in_.Expect(TokenKind::kBlockBegin, "text or a tag");
        for (const char* end : ends) {
          if (in_.IsName(end)) return body;
        }
        if (NodePtr statement = Statement(); statement != nullptr) body.push_back(std::move(statement));
        in_.Expect(TokenKind::kBlockEnd, "%}");
      }
    }
    return body;
  }

 private:
  static void AddOutput(NodePtr node, Nodes* body) {
    if (body->empty() || body->back()->kind != NodeKind::kOutput)
      body->push_back(MakeNode(NodeKind::kOutput, node->offset));
    body->back()->items.push_back(std::move(node));
  }

  // The body of a statement whose own tag was read up to its end. Its last tag's name is taken if it is the only one.
  Nodes BodyOf(std::initializer_list<const char*> ends, const char* opened, size_t at) {
    in_.TakeOperator(":");
    in_.Expect(TokenKind::kBlockEnd, "%}");
    Nodes body = Body(ends, opened, at);
    if (ends.size() == 1) in_.Advance();
    return body;
  }

  NodePtr Statement() {
    const size_t at = in_.current().offset;
    if (!in_.Is(TokenKind::kName)) {
      in_.Fail("expected a statement's name, found " + in_.Describe());
      return nullptr;
    }
    const std::string name = in_.AnyName();
    if (name == "set") return Set(at);
    if (name == "if") return If(at);
    if (name == "for") return For(at);
    if (name == "macro") return Macro(at);
    if (name == "call") return CallBlock(at);
    if (name == "filter") return FilterBlock(at);
    if (name == "with") return With(at);
    if (name == "print") return Print(at);
    if (name == "break") return MakeNode(NodeKind::kBreak, at);
    if (name == "continue") return MakeNode(NodeKind::kContinue, at);
    if (name == "generation") {
      NodePtr node = MakeNode(NodeKind::kGeneration, at);
      node->body = BodyOf({"endgeneration"}, "generation", at);
      return node;
    }
    for (const char* other : {"include", "import", "from", "extends", "block", "autoescape"}) {
      if (name == other) {
        in_.Fail(absl::StrCat("the statement ", name, " has no meaning in a chat template"), at);
        return nullptr;
      }
    }
    in_.Fail(absl::StrCat("there is no statement ", name, ", or none is open that it could end"), at);
    return nullptr;
  }

  NodePtr Set(size_t at) {
    NodePtr target = ParseTarget(in_, true);
    NodePtr node = MakeNode(NodeKind::kSet, at);
    node->a = std::move(target);
    if (in_.TakeOperator("=")) {
      node->b = ParseTupleOrExpression(in_, true);
      return node;
    }
    node->kind = NodeKind::kSetBlock;
    node->b = ParseFilters(in_, false);
    node->body = BodyOf({"endset"}, "set", at);
    return node;
  }

  NodePtr If(size_t at) {
    NodePtr node = MakeNode(NodeKind::kIf, at);
    node->a = ParseTupleOrExpression(in_, false);
    node->body = BodyOf({"elif", "else", "endif"}, "if", at);
    while (!in_.failed() && in_.IsName("elif")) {
      NodePtr branch = MakeNode(NodeKind::kIf, in_.current().offset);
      in_.Advance();
      branch->a = ParseTupleOrExpression(in_, false);
      branch->body = BodyOf({"elif", "else", "endif"}, "if", at);
      node->items.push_back(std::move(branch));
    }
    if (in_.TakeName("else")) {
      node->other = BodyOf({"endif"}, "if", at);
    } else {
      in_.Advance();
    }
    return node;
  }

  NodePtr For(size_t at) {
    NodePtr node = MakeNode(NodeKind::kFor, at);
    node->a = ParseTarget(in_, false, "in");
    in_.ExpectName("in");
    node->b = ParseTupleOrExpression(in_, false, "recursive");
    if (in_.TakeName("if")) {
      node->c = ParseExpression(in_);
      if (!in_.failed()) node->items.push_back(CopyTarget(*node->a));
    }
    node->recursive = in_.TakeName("recursive");
    node->body = BodyOf({"else", "endfor"}, "for", at);
    if (in_.TakeName("else")) {
      node->other = BodyOf({"endfor"}, "for", at);
    } else {
      in_.Advance();
    }
    return node;
  }

  NodePtr Parameter() {
    NodePtr node = MakeNode(NodeKind::kName, in_.current().offset);
    node->name = in_.AnyName();
    return node;
  }

  void Signature(Node* node) {
    in_.ExpectOperator("(");
    while (!in_.failed() && !in_.IsOperator(")")) {
      if (!node->items.empty()) in_.ExpectOperator(",");
      NodePtr parameter = Parameter();
      for (const NodePtr& other : node->items) {
        if (other->name == parameter->name) in_.Fail("this parameter is there twice", parameter->offset);
      }
      node->items.push_back(std::move(parameter));
      if (in_.TakeOperator("=")) {
        node->defaults.push_back(ParseExpression(in_));
      } else if (!node->defaults.empty()) {
        in_.Fail("a parameter without a default behind one with a default");
      }
    }
    in_.ExpectOperator(")");
  }

  NodePtr Macro(size_t at) {
    NodePtr node = MakeNode(NodeKind::kMacro, at);
    node->name = in_.AnyName();
    Signature(node.get());
    node->body = BodyOf({"endmacro"}, "macro", at);
    return node;
  }

  NodePtr CallBlock(size_t at) {
    NodePtr node = MakeNode(NodeKind::kCallBlock, at);
    if (in_.IsOperator("(")) Signature(node.get());
    node->a = ParseExpression(in_);
    if (!in_.failed() && node->a->kind != NodeKind::kCall) in_.Fail("expected a call", node->a->offset);
    node->body = BodyOf({"endcall"}, "call", at);
    return node;
  }

  NodePtr FilterBlock(size_t at) {
    NodePtr node = MakeNode(NodeKind::kFilterBlock, at);
    node->a = ParseFilters(in_, true);
    node->body = BodyOf({"endfilter"}, "filter", at);
    return node;
  }

  NodePtr With(size_t at) {
    NodePtr node = MakeNode(NodeKind::kWith, at);
    while (!in_.failed() && !in_.Is(TokenKind::kBlockEnd)) {
      if (!node->items.empty()) in_.ExpectOperator(",");
      node->items.push_back(ParseTarget(in_, false));
      in_.ExpectOperator("=");
      node->defaults.push_back(ParseExpression(in_));
    }
    node->body = BodyOf({"endwith"}, "with", at);
    return node;
  }

  NodePtr Print(size_t at) {
    NodePtr node = MakeNode(NodeKind::kOutput, at);
    while (!in_.failed() && !in_.Is(TokenKind::kBlockEnd)) {
      if (!node->items.empty()) in_.ExpectOperator(",");
      node->items.push_back(ParseExpression(in_));
    }
    return node;
  }

  TokenReader& in_;
};

}  // namespace

bool ParseTemplate(std::vector<Token> tokens, Nodes* body, SourceError* error) {
  TokenReader in(std::move(tokens), error);
  *body = StatementParser(in).Body({}, "", 0);
  return !in.failed();
}

}  // namespace duo::jinja
