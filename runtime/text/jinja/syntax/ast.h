// A template as a tree. Nodes are made by the parser, their variables' places by ResolveNames; afterwards they never
// change, so any number of runs may read them at once. Plain values; a node owns what hangs from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/text/jinja/values/value.h"

namespace duo::jinja {

struct Node;
using NodePtr = std::unique_ptr<Node>;
using Nodes = std::vector<NodePtr>;

enum class NodeKind : uint8_t {
  // expressions
  kName,       // name, place
  kAttribute,  // of a namespace, as a target: name, attribute, place
  kConstant,   // value
  kData,       // value: the text between tags
  kTuple,      // items
  kList,       // items
  kDict,       // items: key, value, key, value, ..
  kUnary,      // op, a
  kBinary,     // op, a, b
  kLogical,    // op: and, or; a, b
  kConcat,     // items
  kCompare,    // a, items with ops
  kGetAttr,    // a, name
  kGetItem,    // a, b
  kSlice,      // items: start, stop, step; null where left out
  kCall,       // a, call
  kFilter,     // a, null in a filter block; name, call
  kTest,       // a, name, call
  kChoice,     // a if b else c
  // statements
  kOutput,       // items
  kFor,          // a: target, b: iterable, c: condition, items: the condition's own target; body, other; recursive
  kIf,           // a, body, items: the elifs, other
  kMacro,        // name, items: parameters, defaults, body
  kCallBlock,    // a: the call, items: parameters, defaults, body
  kGeneration,   // body
  kFilterBlock,  // a: filters around the body; body
  kWith,         // items: targets, defaults: values, body
  kSet,          // a: target, b: value
  kSetBlock,     // a: target, b: filters or null, body
  kBreak,
  kContinue,
};

enum class Op : uint8_t {
  kNone,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kAnd,
  kOr,
  kNot,
  kNeg,
  kPos,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn,
};

// Where a variable lies: in the variables of the function `up` levels out.
struct Place {
  int up = 0;
  int slot = -1;
};

// What a scope's variables begin as, each time that it is entered.
struct Load {
  enum class From : uint8_t { kContext, kOuter, kNothing };
  int slot = 0;
  From from = From::kNothing;
  Place outer;       // kOuter
  std::string name;  // kContext
};

struct Scope {
  std::vector<Load> loads;
  std::vector<int> slots;  // all, to be forgotten when the scope is left
};

struct CallArguments {
  Nodes positional;
  std::vector<std::pair<std::string, NodePtr>> named;
  NodePtr star, double_star;
};

struct Node {
  Node(NodeKind k, size_t at) : kind(k), offset(at) {}

  NodeKind kind;
  size_t offset = 0;  // in the normalised source
  Op op = Op::kNone;
  bool recursive = false;
  std::string name, attribute;
  Value value;
  NodePtr a, b, c;
  Nodes items, defaults, body, other;
  std::vector<Op> ops;
  CallArguments call;

  // Set by ResolveNames.
  Place place;             // of a name; of what a macro is stored as
  Scope scope;             // of the body
  Scope other_scope;       // of a for statement's else
  Scope test_scope;        // of a for statement's condition
  int function_slots = 0;  // of a macro, call block or recursive loop: how many variables its function has
  int test_slots = 0;      // of a for statement's condition
  int loop_slot = -1;      // where a for statement's `loop` goes
  int caller_slot = -1, kwargs_slot = -1, varargs_slot = -1;  // of a macro that asks for them
};

inline NodePtr MakeNode(NodeKind kind, size_t offset) { return std::make_unique<Node>(kind, offset); }

}  // namespace duo::jinja
