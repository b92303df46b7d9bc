// The attributes that filters take: "name", "address.city", 0, or several with commas between them.
#pragma once

#include <string>
#include <vector>

#include "runtime/text/jinja/run.h"

namespace duo::jinja {

using AttributePath = std::vector<Value>;

// attribute: a str, a whole number or None (the item itself).
AttributePath PathOf(const Value& attribute);
std::vector<AttributePath> PathsOf(const Value& attribute);  // at the commas of a str

// The item's attribute; `otherwise`, unless it is None, where it is undefined.
Value Follow(Run& run, const AttributePath& path, Value item, const Value& otherwise);

// A str in small letters; everything else as it is.
Value IgnoreCase(Run& run, const Value& value);

}  // namespace duo::jinja
