#include "runtime/text/jinja/library/attribute_path.h"

#include <utility>

#include "absl/strings/str_split.h"
#include "runtime/text/jinja/values/characters.h"

namespace duo::jinja {

AttributePath PathOf(const Value& attribute) {
  AttributePath path;
  if (attribute.is_none()) return path;
  if (!attribute.is_string()) return {attribute};
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(attribute.bytes(), '.'))) {
    const bool index = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    path.push_back(index ? Value::Int(std::stoi(part)) : Value::Str(part));
  }
  return path;
}

std::vector<AttributePath> PathsOf(const Value& attribute) {
  if (!attribute.is_string()) return {PathOf(attribute)};
  std::vector<AttributePath> paths;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(attribute.bytes(), ','))) {
    paths.push_back(PathOf(Value::Str(part)));
  }
  return paths;
}

Value Follow(Run& run, const AttributePath& path, Value item, const Value& otherwise) {
  for (const Value& part : path) {
    item = run.GetItem(item, part);
    if (run.failed()) return item;
    if (!otherwise.is_none() && item.is_undefined()) item = otherwise;
  }
  return item;
}

Value IgnoreCase(Run& run, const Value& value) {
  if (!value.is_string() || !run.Charge(value.weight())) return value;
  return Value::Str(ChangeCase(value.text(), Case::kLower), value.safe());
}

}  // namespace duo::jinja
