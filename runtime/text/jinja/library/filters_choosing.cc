// Filters that put another filter or a test on every item: map, select, reject and the two for attributes. Python works
// them out only as far as somebody reads, so a failure waits in what they give.
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/arguments.h"
#include "runtime/text/jinja/library/attribute_path.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/walk.h"

namespace duo::jinja {
namespace {

// The arguments behind the first `n`.
Arguments Rest(const Arguments& arguments, size_t n) {
  Arguments rest;
  rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(n), arguments.positional.end());
  rest.named = arguments.named;
  return rest;
}

bool MapItems(Run& run, const std::vector<Value>& items, const Arguments& arguments, std::vector<Value>* mapped) {
  Value attribute, otherwise = Value::None();
  for (const auto& [name, value] : arguments.named) {
    if (name == "attribute") attribute = value;
  }
  if (arguments.positional.empty() && !attribute.is_missing()) {
    if (!Bind(run, "map", arguments, {{"attribute", &attribute}, {"default", &otherwise}})) return false;
    const AttributePath path = PathOf(attribute);
    for (const Value& item : items) {
      Value value = Follow(run, path, item, otherwise);
      if (run.failed()) return false;
      mapped->push_back(std::move(value));
    }
    return true;
  }
  if (arguments.positional.empty() || !arguments.positional[0].is_string()) {
    run.Fail("map needs a filter's name or an attribute");
    return false;
  }
  const Arguments rest = Rest(arguments, 1);
  for (const Value& item : items) {
    Value value = run.Filter(arguments.positional[0].bytes(), item, rest);
    if (run.failed()) return false;
    mapped->push_back(std::move(value));
  }
  return true;
}

Value MapFilter(Run& run, const Value& of, const Arguments& arguments) {
  std::vector<Value> items, mapped;
  if (IsTrue(of) && ItemsOf(run, of, &items)) MapItems(run, items, arguments, &mapped);
  Value made = MakeIterator(std::move(mapped));
  run.Recover(&made.iterator().failure);
  return made;
}

bool ChooseItems(Run& run, const std::vector<Value>& items, const Arguments& arguments, bool want, bool by_attribute,
                 std::vector<Value>* kept) {
  const size_t test_at = by_attribute ? 1 : 0;
  if (by_attribute && arguments.positional.empty()) {
    run.Fail("an attribute's name is missing");
    return false;
  }
  const AttributePath path = by_attribute ? PathOf(arguments.positional[0]) : AttributePath();
  const bool has_test = arguments.positional.size() > test_at;
  if (has_test && !arguments.positional[test_at].is_string()) {
    run.Fail("a test's name is no text");
    return false;
  }
  const Arguments rest = has_test ? Rest(arguments, test_at + 1) : Arguments();
  for (const Value& item : items) {
    const Value value = Follow(run, path, item, Value::None());
    if (run.failed()) return false;
    const bool holds = has_test ? run.Test(arguments.positional[test_at].bytes(), value, rest) : IsTrue(value);
    if (run.failed()) return false;
    if (holds == want) kept->push_back(item);
  }
  return true;
}

template <bool want, bool by_attribute>
Value ChooseFilter(Run& run, const Value& of, const Arguments& arguments) {
  std::vector<Value> items, kept;
  if (IsTrue(of) && ItemsOf(run, of, &items)) ChooseItems(run, items, arguments, want, by_attribute, &kept);
  Value made = MakeIterator(std::move(kept));
  run.Recover(&made.iterator().failure);
  return made;
}

}  // namespace

std::initializer_list<NamedFilter> ChoosingFilters() {
  static constexpr std::initializer_list<NamedFilter> kFilters = {
      {"map", MapFilter},
      {"reject", ChooseFilter<false, false>},
      {"rejectattr", ChooseFilter<false, true>},
      {"select", ChooseFilter<true, false>},
      {"selectattr", ChooseFilter<true, true>},
  };
  return kFilters;
}

}  // namespace duo::jinja
