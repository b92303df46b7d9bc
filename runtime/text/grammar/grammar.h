// Grammar: what an answer may be, as bytes. A pushdown automaton: states that take bytes, calls of rules, and counted
// repeats, which are counted and never written out, so that {1,1000000} costs as much as {1,2}.
//
// Immutable once compiled; share it between matchers and threads. Compile refuses, with INVALID_ARGUMENT and a
// sentence, what is left-recursive, what no text satisfies, and what is past the builder's limits.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/grammar/expressions.h"

namespace duo {

struct GrammarNode {
  enum class Kind : uint8_t {
    kEnd,     // of a rule, of a repeat's body or of a member
    kBytes,   // one byte of sets[index]
    kSplit,   // one of targets[index, index + count)
    kCall,    // starts[index], then next
    kRepeat,  // the body starts[index], min to max times, then next
    kObject,  // the members of objects[index], then next
  };
  Kind kind = Kind::kEnd;
  int32_t next = 0, index = 0, count = 0;
  int64_t min = 0, max = 0;
};

struct GrammarObject {
  std::vector<int32_t> members;  // starts
  uint64_t required = 0;
  int32_t additional = -1, separator = -1;
};

struct Grammar {
  std::vector<GrammarNode> nodes;
  std::vector<ByteSet> sets;
  std::vector<int32_t> targets;
  std::vector<int32_t> starts;  // of what is called
  std::vector<GrammarObject> objects;
  int32_t start = 0;
};

absl::StatusOr<std::shared_ptr<const Grammar>> CompileGrammar(GrammarBuilder& builder, ExprId root);

}  // namespace duo
