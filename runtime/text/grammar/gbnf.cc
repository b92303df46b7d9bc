#include "runtime/text/grammar/gbnf.h"

#include <cctype>
#include <map>
#include <utility>

#include "runtime/text/grammar/pattern_reader.h"

namespace duo {
namespace {

class GbnfParser {
 public:
  GbnfParser(GrammarBuilder& b, std::string_view text) : b_(b), in_(text, "the grammar") {}

  absl::StatusOr<ExprId> Parse() {
    for (Blank(); in_.ok() && !in_.done() && b_.Spend(); Blank()) {
      const std::string name = Name();
      Blank();
      if (name.empty() || !in_.Take("::=")) {
        in_.Fail("a rule, NAME ::= .., was expected");
        break;
      }
      Known& rule = RuleOf(name);
      if (std::exchange(rule.defined, true)) in_.Fail(absl::StrCat("the rule ", name, " is there twice"));
      b_.Define(rule.id, Choices(0));
    }
    if (!in_.ok()) return in_.status();
    if (!b_.status().ok()) return b_.status();
    for (const auto& [name, rule] : rules_) {
      if (!rule.defined) return absl::InvalidArgumentError(absl::StrCat("the grammar has no rule ", name));
    }
    const auto root = rules_.find("root");
    if (root == rules_.end()) return absl::InvalidArgumentError("the grammar has no rule root");
    return b_.Rule(root->second.id);
  }

 private:
  struct Known {
    RuleId id = 0;
    bool defined = false;
  };
  Known& RuleOf(const std::string& name) {
    const auto [entry, fresh] = rules_.try_emplace(name);
    if (fresh) entry->second.id = b_.NewRule();
    return entry->second;
  }

  void Blank() {
    while (!in_.done()) {
      if (in_.peek() == '#') {
        while (!in_.done() && in_.peek() != '\n') in_.MoveTo(in_.at() + 1);
      } else if (std::isspace(static_cast<unsigned char>(in_.peek())) != 0) {
        in_.MoveTo(in_.at() + 1);
      } else {
        return;
      }
    }
  }
  std::string Name() {
    std::string name;
    while (std::isalnum(static_cast<unsigned char>(in_.peek())) != 0 || in_.peek() == '-' || in_.peek() == '_') {
      name += in_.peek();
      in_.MoveTo(in_.at() + 1);
    }
    return name;
  }
  // A name that begins the next rule.
  bool AtRule() {
    const size_t before = in_.at();
    const bool found = !Name().empty() && (Blank(), in_.Take("::="));
    in_.MoveTo(before);
    return found;
  }

  ExprId Choices(int depth) {
    return b_.Choice(in_.TakeChoices([&] { return Branch(depth); }));
  }

  ExprId Branch(int depth) {
    std::vector<ExprId> parts;
    for (Blank(); in_.ok() && !in_.done() && b_.Spend(); Blank()) {
      if (in_.peek() == '|' || in_.peek() == ')' || AtRule()) break;
      parts.push_back(Quantified(depth));
    }
    if (depth == 0 && in_.peek() == ')') in_.Fail("a ) has no (");
    return b_.Sequence(std::move(parts));
  }

  ExprId Quantified(int depth) {
    ExprId part = Atom(depth);
    for (int count = 0; in_.ok(); ++count) {
      const size_t before = in_.at();
      Blank();
      int64_t min = 0, max = -1;
      if (in_.Take("*")) {
      } else if (in_.Take("+")) {
        min = 1;
      } else if (in_.Take("?")) {
        max = 1;
      } else if (in_.Take("{")) {
        if (!in_.TakeCounts(&min, &max)) in_.Fail("a { is followed by counts, as in {2,5}");
      } else {
        in_.MoveTo(before);
        break;
      }
      if (count > b_.limits().depth) in_.Fail("too many quantifiers in a row");
      if (in_.ok()) part = b_.Repeat(part, min, max);
    }
    return part;
  }

  ExprId Atom(int depth) {
    if (in_.Take("\"")) return Text();
    if (in_.Take("[")) {
      const std::optional<CharacterSet> set = in_.TakeClass(false);
      return set.has_value() ? OneOf(b_, *set, Spelling::kText) : b_.Nothing();
    }
    if (in_.Take(".")) return OneOf(b_, CharacterSet::Any(), Spelling::kText);
    if (in_.Take("(")) {
      if (depth >= b_.limits().depth) {
        in_.Fail(absl::StrCat("groups are nested more than ", b_.limits().depth, " deep"));
        return b_.Nothing();
      }
      const ExprId inside = Choices(depth + 1);
      if (in_.ok() && !in_.Take(")")) in_.Fail("a ( has no )");
      return inside;
    }
    const std::string name = Name();
    if (!name.empty()) return b_.Rule(RuleOf(name).id);
    in_.Fail("a literal, a class, a group or a rule's name was expected");
    return b_.Nothing();
  }

  // Behind its quotation mark.
  ExprId Text() {
    std::string text;
    while (in_.ok() && !in_.Take("\"")) {
      if (in_.done()) {
        in_.Fail("a \" has no end");
        break;
      }
      if (!in_.Take("\\")) {
        AppendUtf8(in_.TakeCharacter(), &text);
        continue;
      }
      const std::optional<CharacterSet> set = in_.TakeEscape(false);
      if (set.has_value()) AppendUtf8(set->ranges[0].first, &text);
    }
    return b_.Literal(text);
  }

  GrammarBuilder& b_;
  PatternReader in_;
  std::map<std::string, Known> rules_;
};

}  // namespace

absl::StatusOr<ExprId> ParseGbnf(GrammarBuilder& b, std::string_view text) {
  if (text.size() > b.limits().bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the grammar has ", text.size(), " bytes, at most ", b.limits().bytes, " are read"));
  }
  if (!IsValidUtf8(text)) return absl::InvalidArgumentError("the grammar is not UTF-8");
  return GbnfParser(b, text).Parse();
}

}  // namespace duo
