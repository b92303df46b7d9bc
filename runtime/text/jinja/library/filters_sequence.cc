// Filters that look at, order and cut sequences.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/arguments.h"
#include "runtime/text/jinja/library/attribute_path.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/library/walk.h"

namespace duo::jinja {
namespace {

Value LengthFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "length", arguments, {}) || (of.is_string() && !run.Charge(of.weight()))) return Value();
  const int64_t length = LengthOf(of);
  return length < 0 ? run.Fail(absl::StrCat("a value of type ", TypeName(of), " has no length")) : Value::Int(length);
}

Value DefaultFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value otherwise = Value::Str(""), boolean = Value::Bool(false);
  if (!Bind(run, "default", arguments, {{"default_value", &otherwise}, {"boolean", &boolean}})) return Value();
  return of.is_undefined() || (IsTrue(boolean) && !IsTrue(of)) ? otherwise : of;
}

Value ListFilter(Run& run, const Value& of, const Arguments& arguments) {
  std::vector<Value> items;
  if (!Bind(run, "list", arguments, {}) || !ItemsOf(run, of, &items)) return Value();
  return run.MakeList(std::move(items));
}

Value FirstFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "first", arguments, {})) return Value();
  Walk walk{of, 0};
  Value item;
  if (NextOf(run, walk, &item)) return item;
  return Value::Undef("there is no first item: the sequence is empty");
}

Value LastFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "last", arguments, {})) return Value();
  std::vector<Value> items;
  if (of.is(Kind::kIterator))
    return run.Fail("last: what a filter gives piece by piece has no last item before `list`");
  if (!ItemsOf(run, of, &items)) return Value();
  return items.empty() ? Value::Undef("there is no last item: the sequence is empty") : items.back();
}

Value ReverseFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "reverse", arguments, {})) return Value();
  if (of.is_string()) return Slice(run, of, Value::None(), Value::None(), Value::Int(-1));
  std::vector<Value> items;
  if (!ItemsOf(run, of, &items)) return Value();
  std::reverse(items.begin(), items.end());
  return of.is(Kind::kIterator) ? run.MakeList(std::move(items)) : MakeIterator(std::move(items));
}

Value ItemsFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "items", arguments, {})) return Value();
  std::vector<Value> items;
  if (of.is(Kind::kDict)) {
    if (!run.CanMake(32 * of.dict().size())) return Value();
    for (const auto& [key, value] : of.dict().entries()) items.push_back(Value::Tuple({key, value}));
  }
  Value made = MakeIterator(std::move(items));
  if (!of.is(Kind::kDict) && !of.is_undefined())
    made.iterator().failure = absl::StrCat("items: expected a dict, found a ", TypeName(of));
  return made;
}

// Sorts by keys that were computed before: stable, and only as long as keys can be compared.
template <typename Entry, typename KeyLess>
void SortBy(Run& run, std::vector<Entry>* entries, bool reverse, KeyLess less) {
  std::stable_sort(entries->begin(), entries->end(), [&](const Entry& a, const Entry& b) {
    if (!run.Charge(1)) return false;
    const bool is_less = reverse ? less(b.first, a.first) : less(a.first, b.first);
    return !run.failed() && is_less;
  });
}

std::vector<Value> Seconds(std::vector<std::pair<Value, Value>> entries) {
  std::vector<Value> items;
  for (auto& entry : entries) items.push_back(std::move(entry.second));
  return items;
}

Value DictSortFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value cased = Value::Bool(false), by = Value::Str("key"), reverse = Value::Bool(false);
  if (!Bind(run, "dictsort", arguments, {{"case_sensitive", &cased}, {"by", &by}, {"reverse", &reverse}}))
    return Value();
  const bool by_key = by.is_string() && by.bytes() == "key";
  if (!by_key && !(by.is_string() && by.bytes() == "value")) return run.Fail("dictsort: by is key or value");
  if (!of.is(Kind::kDict))
    return run.Fail(of.is_undefined() ? of.why() : absl::StrCat("dictsort: expected a dict, found a ", TypeName(of)));
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [key, value] : of.dict().entries()) {
    const Value& sorted = by_key ? key : value;
    entries.emplace_back(IsTrue(cased) ? sorted : IgnoreCase(run, sorted), Value::Tuple({key, value}));
  }
  SortBy(run, &entries, IsTrue(reverse), [&](const Value& a, const Value& b) { return Less(run, a, b); });
  return run.MakeList(Seconds(std::move(entries)));
}

Value SortFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value reverse = Value::Bool(false), cased = Value::Bool(false), attribute = Value::None();
  if (!Bind(run, "sort", arguments, {{"reverse", &reverse}, {"case_sensitive", &cased}, {"attribute", &attribute}}))
    return Value();
  const std::vector<AttributePath> paths = PathsOf(attribute);
  std::vector<Value> items;
  if (!ItemsOf(run, of, &items)) return Value();
  std::vector<std::pair<Value, Value>> entries;
  for (Value& item : items) {
    std::vector<Value> keys;
    for (const AttributePath& path : paths) {
      const Value key = Follow(run, path, item, Value::None());
      if (run.failed()) return Value();
      keys.push_back(IsTrue(cased) ? key : IgnoreCase(run, key));
    }
    entries.emplace_back(Value::List(std::move(keys)), std::move(item));
  }
  SortBy(run, &entries, IsTrue(reverse), [&](const Value& a, const Value& b) { return Less(run, a, b); });
  return run.MakeList(Seconds(std::move(entries)));
}

template <bool greatest>
Value ExtremeFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value cased = Value::Bool(false), attribute = Value::None();
  if (!Bind(run, "min and max", arguments, {{"case_sensitive", &cased}, {"attribute", &attribute}})) return Value();
  const AttributePath path = PathOf(attribute);
  std::vector<Value> items;
  if (!ItemsOf(run, of, &items)) return Value();
  if (items.empty()) return Value::Undef("there is no such item: the sequence is empty");
  Value best, best_key;
  for (const Value& item : items) {
    Value key = Follow(run, path, item, Value::None());
    if (!IsTrue(cased)) key = IgnoreCase(run, key);
    if (run.failed()) return Value();
    if (!best.is_missing() && !(greatest ? Less(run, best_key, key) : Less(run, key, best_key))) continue;
    best = item;
    best_key = key;
  }
  return best;
}

Value SumFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value attribute = Value::None(), start = Value::Int(0);
  if (!Bind(run, "sum", arguments, {{"attribute", &attribute}, {"start", &start}})) return Value();
  if (start.is_string()) return run.Fail("sum: texts are joined, not summed");
  const AttributePath path = PathOf(attribute);
  std::vector<Value> items;
  if (!ItemsOf(run, of, &items)) return Value();
  for (const Value& item : items) {
    const Value value = Follow(run, path, item, Value::None());
    if (run.failed()) return Value();
    start = ApplyBinary(run, Op::kAdd, start, value);
    if (run.failed()) return Value();
  }
  return start;
}

Value UniqueFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value cased = Value::Bool(false), attribute = Value::None();
  if (!Bind(run, "unique", arguments, {{"case_sensitive", &cased}, {"attribute", &attribute}})) return Value();
  const AttributePath path = PathOf(attribute);
  std::vector<Value> items, kept;
  Dict seen;
  if (!IsIterable(of)) return run.Fail(absl::StrCat("unique: a ", TypeName(of), " cannot be looped over"));
  if (ItemsOf(run, of, &items)) {
    for (Value& item : items) {
      Value key = Follow(run, path, item, Value::None());
      if (!IsTrue(cased)) key = IgnoreCase(run, key);
      if (run.failed() || !CheckKey(run, key)) break;
      if (seen.Find(key) != nullptr) continue;
      seen.Set(std::move(key), Value::None());
      kept.push_back(std::move(item));
    }
  }
  Value made = MakeIterator(std::move(kept));
  run.Recover(&made.iterator().failure);
  return made;
}

Value GroupByFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value attribute, otherwise = Value::None(), cased = Value::Bool(false);
  if (!Bind(run, "groupby", arguments,
            {{"attribute", &attribute, true}, {"default", &otherwise}, {"case_sensitive", &cased}}))
    return Value();
  const AttributePath path = PathOf(attribute);
  std::vector<Value> items;
  if (!ItemsOf(run, of, &items)) return Value();
  std::vector<std::pair<Value, Value>> entries;
  for (Value& item : items) {
    Value key = Follow(run, path, item, otherwise);
    if (!IsTrue(cased)) key = IgnoreCase(run, key);
    if (run.failed()) return Value();
    entries.emplace_back(std::move(key), std::move(item));
  }
  SortBy(run, &entries, false, [&](const Value& a, const Value& b) { return Less(run, a, b); });
  if (run.failed()) return Value();
  std::vector<Value> groups;
  for (size_t begin = 0; begin < entries.size();) {
    size_t end = begin;
    std::vector<Value> members;
    while (end < entries.size() && CheckEqual(run, entries[begin].first, entries[end].first))
      members.push_back(entries[end++].second);
    if (run.failed() || end == begin) return Value();
    Value name = IsTrue(cased) ? entries[begin].first : Follow(run, path, members[0], otherwise);
    groups.push_back(Value::Of(std::shared_ptr<const Sequence>(
        NewSequence(SequenceType::kGroup, {std::move(name), Value::List(std::move(members))}))));
    begin = end;
  }
  return run.MakeList(std::move(groups));
}

Value BatchFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value count_value, fill = Value::None();
  int64_t count = 0;
  if (!Bind(run, "batch", arguments, {{"linecount", &count_value, true}, {"fill_with", &fill}}) ||
      !IntegerOf(run, "batch", count_value, &count))
    return Value();
  std::vector<Value> items, batch, batches;
  if (!ItemsOf(run, of, &items)) return Value();
  for (Value& item : items) {
    if (static_cast<int64_t>(batch.size()) == count) {
      batches.push_back(Value::List(std::move(batch)));
      batch.clear();
    }
    batch.push_back(std::move(item));
  }
  if (!batch.empty()) {
    if (!fill.is_none() && static_cast<int64_t>(batch.size()) < count) {
      if (!run.CanMake(32 * static_cast<size_t>(std::min<int64_t>(count, int64_t{1} << 40)))) return Value();
      batch.resize(static_cast<size_t>(count), fill);
    }
    batches.push_back(Value::List(std::move(batch)));
  }
  return MakeIterator(std::move(batches));
}

Value SliceFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value count_value, fill = Value::None();
  int64_t count = 0;
  if (!Bind(run, "slice", arguments, {{"slices", &count_value, true}, {"fill_with", &fill}}) ||
      !IntegerOf(run, "slice", count_value, &count))
    return Value();
  if (count == 0) return run.Fail("slice: into no slices");
  std::vector<Value> items, slices;
  if (!ItemsOf(run, of, &items) ||
      !run.CanMake(32 * static_cast<size_t>(std::clamp<int64_t>(count, 0, int64_t{1} << 40))))
    return Value();
  const int64_t n = static_cast<int64_t>(items.size());
  int64_t at = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = n / count + (i < n % count ? 1 : 0);
    std::vector<Value> slice(items.begin() + at, items.begin() + at + size);
    if (!fill.is_none() && i >= n % count) slice.push_back(fill);
    slices.push_back(Value::List(std::move(slice)));
    at += size;
  }
  return MakeIterator(std::move(slices));
}

Value AttributeFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value name;
  if (!Bind(run, "attr", arguments, {{"name", &name, true}}) || !StringOf(run, "attr", name)) return Value();
  if (of.is_undefined()) return run.Fail(of.why());
  const Value found = AttributeOf(run, of, name.bytes());
  return found.is_missing() ? Value::Undef(absl::StrCat("there is no attribute ", name.bytes())) : found;
}

Value RandomFilter(Run& run, const Value&, const Arguments&) {
  return run.Fail("the filter random is not supported in chat templates");
}

}  // namespace

std::initializer_list<NamedFilter> SequenceFilters() {
  static constexpr std::initializer_list<NamedFilter> kFilters = {
      {"attr", AttributeFilter},    {"batch", BatchFilter},        {"count", LengthFilter},  {"d", DefaultFilter},
      {"default", DefaultFilter},   {"dictsort", DictSortFilter},  {"first", FirstFilter},   {"groupby", GroupByFilter},
      {"items", ItemsFilter},       {"last", LastFilter},          {"length", LengthFilter}, {"list", ListFilter},
      {"max", ExtremeFilter<true>}, {"min", ExtremeFilter<false>}, {"random", RandomFilter}, {"reverse", ReverseFilter},
      {"slice", SliceFilter},       {"sort", SortFilter},          {"sum", SumFilter},       {"unique", UniqueFilter},
  };
  return kFilters;
}

}  // namespace duo::jinja
