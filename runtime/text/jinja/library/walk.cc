#include "runtime/text/jinja/library/walk.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/values/characters.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {

bool IsIterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kSequence:
    case Kind::kDict:
    case Kind::kIterator:
      return true;
    default:
      return false;
  }
}

bool NextOf(Run& run, Walk& walk, Value* item) {
  if (!run.Charge(1)) return false;
  const Value& source = walk.source;
  switch (source.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kSequence:
      if (walk.at >= source.sequence().items.size()) return false;
      *item = source.sequence().items[walk.at++];
      return true;
    case Kind::kDict:
      if (walk.at >= source.dict().size()) return false;
      *item = source.dict().entries()[walk.at++].first;
      return true;
    case Kind::kIterator: {
      Iterator& iterator = source.iterator();
      if (iterator.next < iterator.items.size()) {
        *item = iterator.items[iterator.next++];
        return true;
      }
      if (!iterator.failure.empty()) {
        run.Fail(iterator.failure);
        iterator.failure.clear();
      }
      return false;
    }
    case Kind::kString: {
      const Text& text = source.text();
      if (walk.at >= text.size()) return false;
      const size_t begin = walk.at;
      NextCodePoint(text.bytes(), &walk.at);
      *item = Value::Str(text.Part(begin, walk.at));
      return true;
    }
    default:
      run.Fail(absl::StrCat("a value of type ", TypeName(source), " cannot be looped over"));
      return false;
  }
}

bool ItemsOf(Run& run, const Value& value, std::vector<Value>* items) {
  Walk walk{value, 0};
  Value item;
  while (NextOf(run, walk, &item)) items->push_back(std::move(item));
  return !run.failed();
}

int64_t LengthOf(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return static_cast<int64_t>(CountCharacters(value.bytes()));
    case Kind::kSequence:
      return static_cast<int64_t>(value.sequence().items.size());
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().size());
    default:
      return -1;
  }
}

Value MakeIterator(std::vector<Value> items) {
  auto made = std::make_shared<Iterator>();
  for (const Value& item : items) made->depth = std::max(made->depth, item.depth() + 1);
  made->items = std::move(items);
  return Value::Of(std::move(made));
}

}  // namespace duo::jinja
