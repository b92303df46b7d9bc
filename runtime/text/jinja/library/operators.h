// Python's operators on values. Failures go to the run.
#pragma once

#include "runtime/text/jinja/run.h"

namespace duo::jinja {

Value ApplyUnary(Run& run, Op op, const Value& a);
Value ApplyBinary(Run& run, Op op, const Value& a, const Value& b);
bool Compare(Run& run, Op op, const Value& a, const Value& b);
bool Less(Run& run, const Value& a, const Value& b);
bool Contains(Run& run, const Value& container, const Value& item);
bool CheckEqual(Run& run, const Value& a, const Value& b);  // Equal, its work charged

// Whether the value can be a dict's key.
bool CheckKey(Run& run, const Value& key);

// of[start:stop:step]; None where a bound is left out.
Value Slice(Run& run, const Value& of, const Value& start, const Value& stop, const Value& step);

// A text of text's kind: what is given to a Markup is escaped first.
Text EscapeFor(const Value& markup, const Value& value);
Text EscapeHtml(const Text& text);

}  // namespace duo::jinja
