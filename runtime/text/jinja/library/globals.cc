// The functions that every template finds.
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/arguments.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/library/walk.h"

namespace duo::jinja {
namespace {

Value RangeFunction(Run& run, const Value&, const Arguments& arguments) {
  Value first, second, third = Value::Int(1);
  if (!Bind(run, "range", arguments,
            {{"start", &first, true, false}, {"stop", &second, false, false}, {"step", &third, false, false}}))
    return Value();
  int64_t start = 0, stop = 0, step = 0;
  if (!IntegerOf(run, "range", first, second.is_missing() ? &stop : &start) ||
      (!second.is_missing() && !IntegerOf(run, "range", second, &stop)) || !IntegerOf(run, "range", third, &step))
    return Value();
  if (step == 0) return run.Fail("range: the step is zero");
  constexpr int64_t kMost = 100'000;  // as jinja2's sandbox has it
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= kMost)
      return run.Fail(absl::StrCat("range: more than ", kMost, " numbers"));
    items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  if (!run.Charge(static_cast<int64_t>(items.size()))) return Value();
  auto made = NewSequence(SequenceType::kRange, std::move(items));
  made->start = start;
  made->stop = stop;
  made->step = step;
  return Value::Of(std::shared_ptr<const Sequence>(std::move(made)));
}

// What dict(..) and namespace(..) have in common: one dict or list of pairs, then names.
bool PairsOf(Run& run, const char* what, const Arguments& arguments, Dict* pairs) {
  if (arguments.positional.size() > 1) {
    run.Fail(absl::StrCat(what, " takes at most one value without a name"));
    return false;
  }
  if (!arguments.positional.empty()) {
    const Value& of = arguments.positional[0];
    if (of.is(Kind::kDict)) {
      if (!run.Charge(of.weight())) return false;
      for (const auto& [key, value] : of.dict().entries()) pairs->Set(key, value);
    } else {
      std::vector<Value> items;
      if (!ItemsOf(run, of, &items)) return false;
      for (const Value& item : items) {
        std::vector<Value> pair;
        if (!ItemsOf(run, item, &pair)) return false;
        if (pair.size() != 2) {
          run.Fail(absl::StrCat(what, ": expected pairs of a key and a value"));
          return false;
        }
        if (!CheckKey(run, pair[0])) return false;
        pairs->Set(std::move(pair[0]), std::move(pair[1]));
      }
    }
  }
  for (const auto& [name, value] : arguments.named) pairs->Set(Value::Str(name), value);
  return run.Charge(static_cast<int64_t>(pairs->size()));
}

Value DictFunction(Run& run, const Value&, const Arguments& arguments) {
  auto made = std::make_shared<Dict>();
  if (!PairsOf(run, "dict", arguments, made.get())) return Value();
  return Value::Of(std::shared_ptr<const Dict>(std::move(made)));
}

Value NamespaceFunction(Run& run, const Value&, const Arguments& arguments) {
  Dict pairs;
  if (!PairsOf(run, "namespace", arguments, &pairs)) return Value();
  auto made = run.NewNamespace();
  for (const auto& [key, value] : pairs.entries()) {
    if (!key.is_string()) return run.Fail("namespace: a name is no string");
    if (key.bytes().starts_with('_')) return run.Fail("a namespace's attributes may not begin with an underscore");
    made->attributes.emplace_back(key.bytes(), value);
  }
  return Value::Of(std::move(made));
}

Value CyclerFunction(Run& run, const Value&, const Arguments& arguments) {
  if (arguments.positional.empty() || !arguments.named.empty()) return run.Fail("cycler needs values to go through");
  auto made = std::make_shared<Cycler>();
  made->items = arguments.positional;
  for (const Value& item : made->items) made->depth = std::max(made->depth, item.depth() + 1);
  return Value::Of(std::move(made));
}

Value JoinerFunction(Run& run, const Value&, const Arguments& arguments) {
  Value separator = Value::Str(", ");
  if (!Bind(run, "joiner", arguments, {{"sep", &separator}})) return Value();
  auto made = std::make_shared<Cycler>();
  made->joins = true;
  made->items.push_back(separator);
  made->depth = separator.depth() + 1;
  return Value::Of(std::move(made));
}

Value RaiseFunction(Run& run, const Value&, const Arguments& arguments) {
  Value message;
  if (!Bind(run, "raise_exception", arguments, {{"message", &message, true}})) return Value();
  Text text;
  if (!run.Str(message, &text)) return Value();
  constexpr size_t kMost = 160;  // a template may speak at length
  std::string words = text.bytes();
  if (words.size() > kMost) {
    size_t cut = kMost;
    while (cut > 0 && (static_cast<unsigned char>(words[cut]) & 0xC0) == 0x80) --cut;
    words = words.substr(0, cut) + " ..";
  }
  return run.Fail(absl::StrCat("the template refuses: ", words));
}

Value NowFunction(Run& run, const Value&, const Arguments& arguments) {
  Value format;
  if (!Bind(run, "strftime_now", arguments, {{"format", &format, true}}) || !StringOf(run, "strftime_now", format))
    return Value();
  if (format.text().size() > 1000) return run.Fail("strftime_now: the format is longer than 1,000 bytes");
  return run.Make(Text(run.Now(format.bytes())));
}

}  // namespace

void AddGlobals(Context* context) {
  context->emplace("range", BindMethod("range", RangeFunction, Value::None()));
  context->emplace("dict", BindMethod("dict", DictFunction, Value::None()));
  context->emplace("namespace", BindMethod("namespace", NamespaceFunction, Value::None()));
  context->emplace("cycler", BindMethod("cycler", CyclerFunction, Value::None()));
  context->emplace("joiner", BindMethod("joiner", JoinerFunction, Value::None()));
  context->emplace("raise_exception", BindMethod("raise_exception", RaiseFunction, Value::None()));
  context->emplace("strftime_now", BindMethod("strftime_now", NowFunction, Value::None()));
}

Value CallCycler(Run& run, Cycler& cycler) {
  if (!cycler.joins) return run.Fail("a cycler cannot be called");
  if (!std::exchange(cycler.used, true)) return Value::Str("");
  return cycler.items[0];
}

}  // namespace duo::jinja
