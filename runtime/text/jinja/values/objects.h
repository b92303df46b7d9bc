// The objects of a run that hold parts of the template: functions, macros and loops. They point into the template and
// into the run's variables, and live no longer than the run. Plain values; one thread.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "runtime/text/jinja/values/value.h"

namespace duo::jinja {

struct Node;
struct Variables;
class Run;

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Something that can be called: a function of the library, a method of a value, a macro or a call block's body.
struct Callable {
  using Native = Value (*)(Run&, const Value& self, const Arguments&);
  std::string name;
  Native native = nullptr;
  Value self;                   // of a method
  const Node* macro = nullptr;  // or the template's own
  Variables* outer = nullptr;   // the variables that a macro can see
};

// A walk over a value's items: list items, dict keys, characters; of an iterator, what is left of it.
struct Walk {
  Value source;
  size_t at = 0;
};

// `loop` within a for statement. Items that the condition leaves out are looked for only when the next one is asked
// for.
struct Loop {
  const Node* statement = nullptr;
  Variables* outer = nullptr;  // of the function that the statement is in
  Variables* test = nullptr;   // of the condition, if there is one
  Walk walk;
  std::vector<Value> ahead;  // found already, but not reached
  size_t next_ahead = 0;
  Value previous, current;
  int64_t index = 0;  // of the current item, from 1
  int64_t length = -1;
  int level = 0;  // of recursion, from 0
  bool knows_changed = false;
  std::vector<Value> changed;
};

}  // namespace duo::jinja
