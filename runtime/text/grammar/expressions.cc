#include "runtime/text/grammar/expressions.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace duo {

bool GrammarBuilder::Spend(int64_t amount) {
  if (!status_.ok()) return false;
  const int64_t before = spent_;
  spent_ += amount;
  if (spent_ > limits_.expressions) {
    status_ =
        absl::InvalidArgumentError(absl::StrCat("the grammar is too large: more than ", limits_.expressions, " parts"));
  } else if (before / 1024 != spent_ / 1024 && SecondsSince(start_) > limits_.seconds) {
    status_ =
        absl::InvalidArgumentError(absl::StrCat("the grammar takes more than ", limits_.seconds, " s to compile"));
  }
  return status_.ok();
}

ExprId GrammarBuilder::Add(Expression expression) {
  if (!Spend() && !expressions_.empty()) return Nothing();
  expressions_.push_back(std::move(expression));
  return static_cast<ExprId>(expressions_.size()) - 1;
}

ExprId GrammarBuilder::Nothing() {
  if (expressions_.empty()) expressions_.push_back({});
  return 0;
}

ExprId GrammarBuilder::Empty() {
  Nothing();
  return Add({.kind = Expression::Kind::kEmpty});
}

ExprId GrammarBuilder::Bytes(const ByteSet& set) {
  if (set.none()) return Nothing();
  Nothing();
  sets_.push_back(set);
  return Add({.kind = Expression::Kind::kBytes, .index = static_cast<int32_t>(sets_.size()) - 1});
}

ExprId GrammarBuilder::Range(uint8_t first, uint8_t last) {
  ByteSet set;
  for (int byte = first; byte <= last; ++byte) set.set(byte);
  return Bytes(set);
}

ExprId GrammarBuilder::Literal(std::string_view bytes) {
  std::vector<ExprId> parts;
  for (const char byte : bytes) parts.push_back(Range(static_cast<uint8_t>(byte), static_cast<uint8_t>(byte)));
  return Sequence(std::move(parts));
}

ExprId GrammarBuilder::Sequence(std::vector<ExprId> parts) {
  for (const ExprId part : parts) {
    if (part == Nothing()) return Nothing();
  }
  if (parts.empty()) return Empty();
  if (parts.size() == 1) return parts[0];
  if (!Spend(static_cast<int64_t>(parts.size()))) return Nothing();
  return Add({.kind = Expression::Kind::kSequence, .parts = std::move(parts)});
}

ExprId GrammarBuilder::Choice(std::vector<ExprId> parts) {
  std::erase(parts, Nothing());
  if (parts.empty()) return Nothing();
  if (parts.size() == 1) return parts[0];
  if (!Spend(static_cast<int64_t>(parts.size()))) return Nothing();
  return Add({.kind = Expression::Kind::kChoice, .parts = std::move(parts)});
}

ExprId GrammarBuilder::Repeat(ExprId part, int64_t min, int64_t max) {
  if (max >= 0 && min > max) return Nothing();
  if (max == 0 || (part == Nothing() && min == 0)) return Empty();
  if (part == Nothing()) return Nothing();
  if (min == 1 && max == 1) return part;
  const Expression& inner = expressions_[part];
  // {a,b}{c,d} is {ac,bd} where no number of parts between is left out: then nothing is counted twice.
  constexpr int64_t kMost = int64_t{1} << 31;
  if (inner.kind == Expression::Kind::kRepeat && inner.min < kMost && inner.max < kMost && min < kMost && max < kMost &&
      (inner.max < 0 ? min > 0 || inner.min <= 1 : min * (inner.max - inner.min) + 1 >= inner.min)) {
    const bool endless = inner.max < 0 || max < 0;
    const ExprId innermost = inner.parts[0];
    const int64_t least = inner.min * min, most = endless ? -1 : inner.max * max;
    return Add({.kind = Expression::Kind::kRepeat, .parts = {innermost}, .min = least, .max = most});
  }
  return Add({.kind = Expression::Kind::kRepeat, .parts = {part}, .min = min, .max = max});
}

ExprId GrammarBuilder::Object(ObjectMembers members) {
  for (size_t i = 0; i < members.members.size(); ++i) {
    if (members.members[i] == Nothing() && (members.required >> i & 1) != 0) return Nothing();
  }
  Nothing();
  objects_.push_back(std::move(members));
  return Add({.kind = Expression::Kind::kObject, .index = static_cast<int32_t>(objects_.size()) - 1});
}

RuleId GrammarBuilder::NewRule() {
  rules_.push_back(Nothing());
  return static_cast<RuleId>(rules_.size()) - 1;
}

ExprId GrammarBuilder::Rule(RuleId rule) {
  Nothing();
  return Add({.kind = Expression::Kind::kRule, .index = rule});
}

}  // namespace duo
