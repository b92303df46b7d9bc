// A call's arguments by Python's rules: by place, then by name.
#pragma once

#include <initializer_list>
#include <string>

#include "runtime/text/jinja/run.h"

namespace duo::jinja {

// required: the call fails without it. by_name: whether it may be named in the call.
struct Parameter {
  const char* name;
  Value* into;  // keeps what it has if the call does not give it
  bool required = false;
  bool by_name = true;
};

// False if the call does not fit; `what` is what the message calls the function.
bool Bind(Run& run, const char* what, const Arguments& arguments, std::initializer_list<Parameter> parameters);

// An argument as a whole number; fails for anything else.
bool IntegerOf(Run& run, const char* what, const Value& value, int64_t* integer);
// An argument that must be a str.
bool StringOf(Run& run, const char* what, const Value& value);

}  // namespace duo::jinja
