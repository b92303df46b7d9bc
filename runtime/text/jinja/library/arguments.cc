#include "runtime/text/jinja/library/arguments.h"

#include "absl/strings/str_cat.h"

namespace duo::jinja {

bool Bind(Run& run, const char* what, const Arguments& arguments, std::initializer_list<Parameter> parameters) {
  if (arguments.positional.size() > parameters.size()) {
    run.Fail(
        absl::StrCat(what, " takes at most ", parameters.size(), " arguments, found ", arguments.positional.size()));
    return false;
  }
  size_t named = 0, i = 0;
  for (const Parameter& parameter : parameters) {
    bool found = false;
    if (i < arguments.positional.size()) {
      *parameter.into = arguments.positional[i];
      found = true;
    }
    for (const auto& [name, value] : arguments.named) {
      if (!parameter.by_name || name != parameter.name) continue;
      if (found) {
        run.Fail(absl::StrCat(what, ": the argument ", name, " is given twice"));
        return false;
      }
      *parameter.into = value;
      found = true;
      ++named;
    }
    if (!found && parameter.required) {
      run.Fail(absl::StrCat(what, " needs the argument ", parameter.name));
      return false;
    }
    ++i;
  }
  if (named != arguments.named.size()) {
    run.Fail(absl::StrCat(what, " was given an argument with a name that it does not know"));
    return false;
  }
  return true;
}

bool IntegerOf(Run& run, const char* what, const Value& value, int64_t* integer) {
  if (!value.is_integral()) {
    run.Fail(value.is_undefined() ? value.why()
                                  : absl::StrCat(what, ": expected a whole number, found a ", TypeName(value)));
    return false;
  }
  *integer = value.integer();
  return true;
}

bool StringOf(Run& run, const char* what, const Value& value) {
  if (value.is_string()) return true;
  run.Fail(value.is_undefined() ? value.why() : absl::StrCat(what, ": expected a str, found a ", TypeName(value)));
  return false;
}

}  // namespace duo::jinja
