// The library that templates use: filters, tests, methods of values and global functions, by their jinja2 names.
// Failures go to the run. Tables are constant; functions are pure but for the run.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "runtime/text/jinja/run.h"

namespace duo::jinja {

using FilterFunction = Value (*)(Run&, const Value& of, const Arguments&);
using TestFunction = bool (*)(Run&, const Value& of, const Arguments&);

struct NamedFilter {
  const char* name;
  FilterFunction function;
};
struct NamedTest {
  const char* name;
  TestFunction function;
};

bool HasFilter(std::string_view name);
bool HasTest(std::string_view name);

// The part of the table that each file of filters has.
std::initializer_list<NamedFilter> TextFilters();
std::initializer_list<NamedFilter> NumberFilters();
std::initializer_list<NamedFilter> SequenceFilters();
std::initializer_list<NamedFilter> ChoosingFilters();

// What Python's getattr finds for a value, its keys left aside: missing if there is nothing of the name; undefined if
// the sandbox forbids it. The other two: methods of one kind of value.
Value AttributeOf(Run& run, const Value& of, const std::string& name);
Value StringMethod(const Value& of, const std::string& name);
Value ContainerMethod(const Value& of, const std::string& name);
Value BindMethod(const char* name, Callable::Native native, const Value& self);

// range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
void AddGlobals(Context* context);
Value CallCycler(Run& run, Cycler& cycler);

}  // namespace duo::jinja
