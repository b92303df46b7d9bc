#include "runtime/text/grammar/grammar.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

namespace duo {
namespace {

using Kind = Expression::Kind;

// What is known of every expression: whether some text satisfies it, whether the empty one does.
struct Facts {
  std::vector<bool> possible, nullable;
};

// Expressions refer to smaller numbers or to rules: one pass in order settles all but rules, whose facts only grow.
Facts FindFacts(GrammarBuilder& b) {
  const std::vector<Expression>& all = b.expressions();
  Facts f{std::vector<bool>(all.size()), std::vector<bool>(all.size())};
  const auto find = [&](std::vector<bool>& fact, bool bytes, const auto& of_object) {
    for (bool grown = true; grown && b.Spend(static_cast<int64_t>(all.size()) / 256 + 1);) {
      grown = false;
      for (size_t i = 0; i < all.size(); ++i) {
        const Expression& e = all[i];
        const auto holds = [&](ExprId part) { return bool{fact[part]}; };
        bool now = false;
        switch (e.kind) {
          case Kind::kNothing:
            break;
          case Kind::kEmpty:
            now = true;
            break;
          case Kind::kBytes:
            now = bytes;
            break;
          case Kind::kSequence:
            now = std::all_of(e.parts.begin(), e.parts.end(), holds);
            break;
          case Kind::kChoice:
            now = std::any_of(e.parts.begin(), e.parts.end(), holds);
            break;
          case Kind::kRepeat:
            now = e.min == 0 || holds(e.parts[0]);
            break;
          case Kind::kRule:
            now = holds(b.rules()[e.index]);
            break;
          case Kind::kObject:
            now = of_object(b.objects()[e.index]);
            break;
        }
        grown |= now && !fact[i];
        fact[i] = fact[i] || now;
      }
    }
  };
  find(f.possible, true, [&](const ObjectMembers& o) {
    for (size_t i = 0; i < o.members.size(); ++i) {
      if ((o.required >> i & 1) != 0 && !f.possible[o.members[i]]) return false;
    }
    return true;
  });
  find(f.nullable, false, [](const ObjectMembers& o) { return o.required == 0; });
  return f;
}

class Compiler {
 public:
  Compiler(GrammarBuilder& builder, Facts facts) : b_(builder), facts_(std::move(facts)) {
    grammar_.sets = b_.sets();
    grammar_.nodes.push_back({});  // the end that all share
    dead_ = static_cast<int32_t>(grammar_.sets.size());
    grammar_.sets.emplace_back();
    rule_starts_.assign(b_.rules().size(), -1);
    object_numbers_.assign(b_.objects().size(), -1);
  }

  Grammar Compile(ExprId root) {
    grammar_.start = Lower(root, 0);
    while (!waiting_.empty() && b_.Spend()) {
      const auto [start, body] = waiting_.back();
      waiting_.pop_back();
      const int32_t node = Lower(body, 0);
      grammar_.starts[start] = node;
    }
    return std::move(grammar_);
  }

 private:
  int32_t Add(GrammarNode node) {
    if (!b_.Spend()) return 0;
    grammar_.nodes.push_back(node);
    return static_cast<int32_t>(grammar_.nodes.size()) - 1;
  }

  // The number in `starts` of a body that is lowered later.
  int32_t Start(ExprId body) {
    const auto [entry, fresh] = starts_of_.try_emplace(body, static_cast<int32_t>(grammar_.starts.size()));
    if (fresh) {
      grammar_.starts.push_back(0);
      waiting_.emplace_back(entry->second, body);
    }
    return entry->second;
  }

  int32_t Split(const std::vector<int32_t>& targets) {
    const auto first = static_cast<int32_t>(grammar_.targets.size());
    grammar_.targets.insert(grammar_.targets.end(), targets.begin(), targets.end());
    return Add({.kind = GrammarNode::Kind::kSplit, .index = first, .count = static_cast<int32_t>(targets.size())});
  }

  int32_t Object(int32_t number) {
    int32_t& known = object_numbers_[number];
    if (known >= 0) return known;
    known = static_cast<int32_t>(grammar_.objects.size());
    grammar_.objects.emplace_back();
    const ObjectMembers& o = b_.objects()[number];
    GrammarObject made;
    made.required = o.required;
    for (const ExprId member : o.members) made.members.push_back(facts_.possible[member] ? Start(member) : -1);
    if (o.additional >= 0 && facts_.possible[o.additional]) made.additional = Start(o.additional);
    made.separator = Start(o.separator);
    grammar_.objects[known] = std::move(made);
    return known;
  }

  // A node from which the expression's bytes lead to `next`.
  int32_t Lower(ExprId id, int32_t next) {
    if (!b_.status().ok()) return 0;
    if (!facts_.possible[id]) return Add({.kind = GrammarNode::Kind::kBytes, .next = next, .index = dead_});
    const Expression& e = b_.expressions()[id];
    switch (e.kind) {
      case Kind::kNothing:
      case Kind::kEmpty:
        return next;
      case Kind::kBytes:
        return Add({.kind = GrammarNode::Kind::kBytes, .next = next, .index = e.index});
      case Kind::kSequence:
        for (size_t i = e.parts.size(); i-- > 0;) next = Lower(e.parts[i], next);
        return next;
      case Kind::kChoice: {
        std::vector<int32_t> targets;
        for (const ExprId part : e.parts) {
          if (facts_.possible[part]) targets.push_back(Lower(part, next));
        }
        return Split(targets);
      }
      case Kind::kRule:
        return Add({.kind = GrammarNode::Kind::kCall, .next = next, .index = Start(b_.rules()[e.index])});
      case Kind::kObject:
        return Add({.kind = GrammarNode::Kind::kObject, .next = next, .index = Object(e.index)});
      case Kind::kRepeat:
        return LowerRepeat(e, next);
    }
    return next;
  }

  int32_t LowerRepeat(const Expression& e, int32_t next) {
    const ExprId part = e.parts[0];
    if (!facts_.possible[part]) return next;
    if (e.max < 0) {  // a loop, behind what must be there
      const int32_t loop = Split({0, next});
      if (!b_.status().ok()) return 0;
      const int32_t first = grammar_.nodes[loop].index;
      const int32_t body = Lower(part, loop);
      grammar_.targets[first] = body;
      if (e.min == 0) return loop;
      if (e.min == 1) return body;
      return Counted(part, e.min, e.min, loop);
    }
    if (e.max == 1) return Split({Lower(part, next), next});
    return Counted(part, e.min, e.max, next);
  }

  int32_t Counted(ExprId part, int64_t min, int64_t max, int32_t next) {
    const bool nullable = facts_.nullable[part];
    // A body that may be empty is counted only where it is not.
    const int32_t body = nullable ? StartNonEmpty(part) : Start(part);
    return Add(
        {.kind = GrammarNode::Kind::kRepeat, .next = next, .index = body, .min = nullable ? 0 : min, .max = max});
  }

  // The body without the empty text. Its nodes are made at once, as the expressions cannot be added to any more.
  int32_t StartNonEmpty(ExprId part) {
    const auto [entry, fresh] = non_empty_.try_emplace(part, static_cast<int32_t>(grammar_.starts.size()));
    const int32_t start = entry->second;
    if (!fresh) return start;
    grammar_.starts.push_back(0);
    const int32_t node = LowerNonEmpty(part, 0);
    grammar_.starts[start] = node;
    return start;
  }

  int32_t Dead() { return Add({.kind = GrammarNode::Kind::kBytes, .index = dead_}); }

  int32_t LowerNonEmpty(ExprId id, int32_t next) {
    if (!b_.status().ok()) return 0;
    if (!facts_.nullable[id]) return Lower(id, next);
    const Expression& e = b_.expressions()[id];
    switch (e.kind) {
      case Kind::kSequence: {  // some part is the first that is not empty; all before it are, as all may be
        std::vector<int32_t> targets;
        int32_t rest = next;
        for (size_t i = e.parts.size(); i-- > 0;) {
          targets.push_back(LowerNonEmpty(e.parts[i], rest));
          rest = Lower(e.parts[i], rest);
        }
        return Split(targets);
      }
      case Kind::kChoice: {
        std::vector<int32_t> targets;
        for (const ExprId part : e.parts) {
          if (facts_.possible[part]) targets.push_back(LowerNonEmpty(part, next));
        }
        return Split(targets);
      }
      case Kind::kRule:
        return Add({.kind = GrammarNode::Kind::kCall, .next = next, .index = StartNonEmpty(b_.rules()[e.index])});
      case Kind::kRepeat: {
        const ExprId part = e.parts[0];
        if (!facts_.possible[part]) return Dead();
        // One that is not empty, and then as many as may follow.
        if (e.max == 1) return LowerNonEmpty(part, next);
        if (e.max >= 0) return LowerNonEmpty(part, Counted(part, 0, e.max - 1, next));
        const int32_t loop = Split({0, next});
        if (!b_.status().ok()) return 0;
        const int32_t first = grammar_.nodes[loop].index;
        const int32_t body = LowerNonEmpty(part, loop);
        grammar_.targets[first] = body;
        return body;
      }
      default:
        return Dead();  // objects are not empty where the braces are with them
    }
  }

  GrammarBuilder& b_;
  Facts facts_;
  Grammar grammar_;
  int32_t dead_ = 0;
  std::vector<int32_t> rule_starts_, object_numbers_;
  std::map<ExprId, int32_t> starts_of_, non_empty_;
  std::vector<std::pair<int32_t, ExprId>> waiting_;
};

// A rule that comes back to itself before it takes a byte.
class LeftRecursion {
 public:
  LeftRecursion(GrammarBuilder& builder, const Facts& facts) : b_(builder), f_(facts), seen_(builder.rules().size()) {}
  bool Found() {
    for (size_t rule = 0; rule < seen_.size(); ++rule) {
      if (Visit(static_cast<RuleId>(rule), 0)) return true;
    }
    return false;
  }

 private:
  enum class Seen : uint8_t { kNo, kInside, kDone };
  bool Visit(RuleId rule, int depth) {
    if (seen_[rule] == Seen::kDone) return false;
    if (seen_[rule] == Seen::kInside || depth > 2000) return true;
    seen_[rule] = Seen::kInside;
    const bool found = Left(b_.rules()[rule], depth);
    seen_[rule] = Seen::kDone;
    return found;
  }
  bool Left(ExprId id, int depth) {
    if (!f_.possible[id] || !b_.Spend()) return false;
    const Expression& e = b_.expressions()[id];
    switch (e.kind) {
      case Kind::kSequence:
        for (const ExprId part : e.parts) {
          if (Left(part, depth)) return true;
          if (!f_.nullable[part]) break;
        }
        return false;
      case Kind::kChoice:
      case Kind::kRepeat:
        return std::any_of(e.parts.begin(), e.parts.end(), [&](ExprId part) { return Left(part, depth); });
      case Kind::kRule:
        return Visit(e.index, depth + 1);
      default:
        return false;  // members begin with their keys
    }
  }

  GrammarBuilder& b_;
  const Facts& f_;
  std::vector<Seen> seen_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Grammar>> CompileGrammar(GrammarBuilder& builder, ExprId root) {
  if (!builder.status().ok()) return builder.status();
  Facts facts = FindFacts(builder);
  if (!builder.status().ok()) return builder.status();
  if (!facts.possible[root]) return absl::InvalidArgumentError("no text satisfies the grammar");
  if (LeftRecursion(builder, facts).Found()) {
    return absl::InvalidArgumentError("a rule of the grammar begins with itself, or is nested too deeply");
  }
  auto grammar = std::make_shared<Grammar>(Compiler(builder, std::move(facts)).Compile(root));
  if (!builder.status().ok()) return builder.status();
  return grammar;
}

}  // namespace duo
