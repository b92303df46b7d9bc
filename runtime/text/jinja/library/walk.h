// Walking over what can be walked over: lists, tuples, dicts (their keys), strings (their characters), iterators (what
// is left of them), undefined values (nothing). Failures go to the run.
#pragma once

#include <vector>

#include "runtime/text/jinja/run.h"

namespace duo::jinja {

bool IsIterable(const Value& value);

// The next item; false at the end and after a failure.
bool NextOf(Run& run, Walk& walk, Value* item);

// All items, appended; false after a failure.
bool ItemsOf(Run& run, const Value& value, std::vector<Value>* items);

// How many there are, as len() has it; -1 for what has no length.
int64_t LengthOf(const Value& value);

// What a filter gives lazily in Python. Values are computed at once; a failure waits for the reader who comes to it.
Value MakeIterator(std::vector<Value> items);

}  // namespace duo::jinja
