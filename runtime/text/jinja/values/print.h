// Values as text: Python's str() and repr(), and its json.dumps(). What was given to the template stays marked as
// given, within quotes and escapes too. Threads: pure. Errors: json.dumps has no word for some kinds of value; then
// false and their name comes back. The text of a value whose containers hold ever more of each other ends at `most`
// bytes.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "runtime/text/jinja/values/value.h"

namespace duo::jinja {

std::string FloatText(double d);  // repr(float)

// False if the text would be longer than `most` bytes, or has no spelling that two runs would share (an object's
// address); `why` says which.
bool AppendStr(const Value& value, size_t most, Text* out, std::string* why);
bool AppendRepr(const Value& value, size_t most, Text* out, std::string* why);

struct JsonStyle {
  bool ascii = false;
  std::optional<std::string> indent;  // of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
bool AppendJson(const Value& value, const JsonStyle& style, size_t most, Text* out, std::string* why);

}  // namespace duo::jinja
