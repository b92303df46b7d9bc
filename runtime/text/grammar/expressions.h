// Expressions: a grammar over bytes as it is built from a JSON schema, a regular expression or GBNF, before it is
// compiled (grammar.h). Rules may refer to each other, and so to themselves.
//
// Why a budget: what users send is compiled while others wait. Every expression is counted and the clock is looked at;
// past the limits every call gives Nothing(), and status() says which limit it was. Values refer to expressions by
// number; the builder owns them. One thread at a time.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/seconds.h"

namespace duo {

struct GrammarLimits {
  size_t bytes = size_t{256} << 10;  // of the text that is compiled
  int depth = 64;                    // of what is nested in it
  int64_t expressions = 200'000;     // and as many states
  double seconds = 1;
};

using ByteSet = std::bitset<256>;
using ExprId = int32_t;
using RuleId = int32_t;

// The members of a JSON object in any order: each at most once, those in `required` (a bit for each) in any case.
struct ObjectMembers {
  std::vector<ExprId> members;  // at most kMostMembers
  uint64_t required = 0;
  ExprId additional = -1;  // any number of these besides; -1: none
  ExprId separator = -1;   // between two members
};
constexpr size_t kMostMembers = 60;

struct Expression {
  enum class Kind { kNothing /* no text */, kEmpty, kBytes, kSequence, kChoice, kRepeat, kRule, kObject };
  Kind kind = Kind::kNothing;
  int32_t index = 0;               // kBytes: of sets; kRule: the rule; kObject: of objects
  std::vector<ExprId> parts = {};  // kSequence, kChoice; kRepeat: one
  int64_t min = 0, max = -1;       // kRepeat; max -1: no end
};

class GrammarBuilder {
 public:
  explicit GrammarBuilder(const GrammarLimits& limits) : limits_(limits), start_(Clock::now()) {}

  ExprId Nothing();
  ExprId Empty();
  ExprId Bytes(const ByteSet& set);
  ExprId Range(uint8_t first, uint8_t last);
  ExprId Literal(std::string_view bytes);
  ExprId Sequence(std::vector<ExprId> parts);
  ExprId Choice(std::vector<ExprId> parts);
  ExprId Repeat(ExprId part, int64_t min, int64_t max);  // max -1: no end
  ExprId Optional(ExprId part) { return Repeat(part, 0, 1); }
  ExprId Object(ObjectMembers members);
  // A rule is declared, referred to, and defined once.
  RuleId NewRule();
  void Define(RuleId rule, ExprId body) { rules_[rule] = body; }
  ExprId Rule(RuleId rule);

  // False past a limit. Also for loops that build nothing.
  bool Spend(int64_t amount = 1);
  const absl::Status& status() const { return status_; }
  const GrammarLimits& limits() const { return limits_; }

  const std::vector<Expression>& expressions() const { return expressions_; }
  const std::vector<ByteSet>& sets() const { return sets_; }
  const std::vector<ObjectMembers>& objects() const { return objects_; }
  const std::vector<ExprId>& rules() const { return rules_; }

 private:
  ExprId Add(Expression expression);

  GrammarLimits limits_;
  Clock::time_point start_;
  absl::Status status_;
  int64_t spent_ = 0;
  std::vector<Expression> expressions_;
  std::vector<ByteSet> sets_;
  std::vector<ObjectMembers> objects_;
  std::vector<ExprId> rules_;
};

}  // namespace duo
