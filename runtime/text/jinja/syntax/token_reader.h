// A walk over tokens for the two halves of the parser, and their common state: the first error ends the walk, for
// afterwards every token is the end. One parser's own.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/syntax/ast.h"
#include "runtime/text/jinja/syntax/lexer.h"

namespace duo::jinja {

class TokenReader {
 public:
  TokenReader(std::vector<Token> tokens, SourceError* error) : tokens_(std::move(tokens)), error_(*error) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& following() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool Is(TokenKind kind) const { return current().kind == kind; }
  bool IsName(std::string_view name) const { return Is(TokenKind::kName) && current().text == name; }
  bool IsOperator(std::string_view op) const { return Is(TokenKind::kOperator) && current().text == op; }

  void Advance() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  bool TakeName(std::string_view name) {
    if (!IsName(name)) return false;
    Advance();
    return true;
  }
  bool TakeOperator(std::string_view op) {
    if (!IsOperator(op)) return false;
    Advance();
    return true;
  }
  void ExpectOperator(std::string_view op) {
    if (!TakeOperator(op)) Fail(absl::StrCat("expected ", std::string(op), ", found ", Describe()));
  }
  void ExpectName(std::string_view name) {
    if (!TakeName(name)) Fail(absl::StrCat("expected \"", std::string(name), "\", found ", Describe()));
  }
  void Expect(TokenKind kind, const char* what) {
    if (!Is(kind)) return Fail(absl::StrCat("expected ", what, ", found ", Describe()));
    Advance();
  }
  std::string AnyName() {
    if (!Is(TokenKind::kName)) {
      Fail(absl::StrCat("expected a name, found ", Describe()));
      return "";
    }
    std::string name = current().text;
    Advance();
    return name;
  }

  std::string Describe() const {
    switch (current().kind) {
      case TokenKind::kData:
        return "text";
      case TokenKind::kVariableBegin:
        return "{{";
      case TokenKind::kVariableEnd:
        return "}}";
      case TokenKind::kBlockBegin:
        return "{%";
      case TokenKind::kBlockEnd:
        return "%}";
      case TokenKind::kString:
        return "a string";
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return "a number";
      case TokenKind::kEnd:
        return "the end of the template";
      default:
        return absl::StrCat("\"", current().text, "\"");
    }
  }

  bool failed() const { return failed_; }
  void Fail(std::string message) { Fail(std::move(message), current().offset); }
  void Fail(std::string message, size_t offset) {
    if (!failed_) error_ = {std::move(message), offset};
    failed_ = true;
    at_ = tokens_.size() - 1;
  }

  // How deeply the parser is within itself: a guard against templates that only nest.
  class Depth {
   public:
    explicit Depth(TokenReader* reader) : reader_(*reader) {
      if (++reader_.depth_ > kMost) reader_.Fail("this is nested too deeply");
    }
    ~Depth() { --reader_.depth_; }

   private:
    static constexpr int kMost = 200;
    TokenReader& reader_;
  };

 private:
  std::vector<Token> tokens_;
  SourceError& error_;
  size_t at_ = 0;
  int depth_ = 0;
  bool failed_ = false;
};

}  // namespace duo::jinja
