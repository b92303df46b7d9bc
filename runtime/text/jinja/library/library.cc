#include "runtime/text/jinja/library/library.h"

#include <unordered_map>

#include "absl/strings/str_cat.h"

namespace duo::jinja {
namespace {

const FilterFunction* FindFilter(std::string_view name) {
  for (const auto& part : {TextFilters(), NumberFilters(), SequenceFilters(), ChoosingFilters()}) {
    for (const NamedFilter& filter : part) {
      if (name == filter.name) return &filter.function;
    }
  }
  return nullptr;
}

}  // namespace

bool HasFilter(std::string_view name) { return FindFilter(name) != nullptr; }

Value Run::Filter(const std::string& name, const Value& value, const Arguments& arguments) {
  const FilterFunction* found = FindFilter(name);
  return found != nullptr ? (*found)(*this, value, arguments) : Fail(absl::StrCat("there is no filter ", name));
}

}  // namespace duo::jinja
