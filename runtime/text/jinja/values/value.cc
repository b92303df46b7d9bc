#include "runtime/text/jinja/values/value.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/text/jinja/values/objects.h"

namespace duo::jinja {
namespace {

constexpr int64_t kHeaviest = int64_t{1} << 60;

int64_t AddWeight(int64_t a, int64_t b) { return std::min(kHeaviest, a + b); }

bool IsTupleType(SequenceType type) { return type == SequenceType::kTuple || type == SequenceType::kGroup; }

bool EqualItems(const std::vector<Value>& a, const std::vector<Value>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Value& x, const Value& y) { return Equal(x, y); });
}

bool EqualSequences(const Sequence& a, const Sequence& b) {
  const bool views = a.type == SequenceType::kKeys || a.type == SequenceType::kItems;
  if (a.type == SequenceType::kValues || b.type == SequenceType::kValues) return &a == &b;
  if (views && (b.type == SequenceType::kKeys || b.type == SequenceType::kItems)) {  // they compare as sets
    if (a.items.size() != b.items.size()) return false;
    return std::all_of(a.items.begin(), a.items.end(), [&](const Value& x) {
      return std::any_of(b.items.begin(), b.items.end(), [&](const Value& y) { return Equal(x, y); });
    });
  }
  if (IsTupleType(a.type) ? !IsTupleType(b.type) : a.type != b.type) return false;
  return EqualItems(a.items, b.items);
}

}  // namespace

std::shared_ptr<Sequence> NewSequence(SequenceType type, std::vector<Value> items) {
  auto made = std::make_shared<Sequence>();
  made->type = type;
  for (const Value& item : items) {
    made->depth = std::max(made->depth, item.depth() + 1);
    made->weight = AddWeight(made->weight, item.weight());
  }
  made->items = std::move(items);
  return made;
}

Value Value::Undef(std::string why) {
  return Value(Kind::kUndefined, std::make_shared<const Undefined>(Undefined{std::move(why)}));
}
Value Value::Str(Text text, bool safe) {
  return Value(Kind::kString, std::make_shared<const String>(String{std::move(text), safe}));
}
Value Value::List(std::vector<Value> items) {
  return Of(std::shared_ptr<const Sequence>(NewSequence(SequenceType::kList, std::move(items))));
}
Value Value::Tuple(std::vector<Value> items) {
  return Of(std::shared_ptr<const Sequence>(NewSequence(SequenceType::kTuple, std::move(items))));
}

bool Value::is_list() const { return kind_ == Kind::kSequence && sequence().type == SequenceType::kList; }
bool Value::is_tuple() const { return kind_ == Kind::kSequence && IsTupleType(sequence().type); }

bool Value::Same(const Value& other) const {
  if (kind_ != other.kind_) return false;
  switch (kind_) {
    case Kind::kNone:
      return true;
    case Kind::kString:  // short strings are shared in Python, so that equal ones are mostly the same
      return bytes() == other.bytes();
    case Kind::kFloat:
      return false;
    default:
      return payload_ == other.payload_;
  }
}

int Value::depth() const {
  switch (kind_) {
    case Kind::kSequence:
      return sequence().depth;
    case Kind::kDict:
      return dict().depth();
    case Kind::kIterator:
      return iterator().depth;
    case Kind::kCallable:
      return callable().self.depth() + 1;
    case Kind::kLoop:
      return loop().walk.source.depth() + 1;
    case Kind::kCycler:
      return cycler().depth;
    default:
      return 0;
  }
}

int64_t Value::weight() const {
  switch (kind_) {
    case Kind::kString:
      return 1 + static_cast<int64_t>(text().size() / 32);
    case Kind::kSequence:
      return sequence().weight;
    case Kind::kDict:
      return dict().weight();
    default:
      return 1;
  }
}

bool Dict::KeyOf(const Value& key, std::string* out) {
  switch (key.kind()) {
    case Kind::kString:
      out->append("s").append(std::to_string(key.bytes().size())).append(":").append(key.bytes());
      return true;
    case Kind::kNone:
      out->append("n");
      return true;
    case Kind::kUndefined:
      out->append("u");
      return true;
    case Kind::kFloat:
      if (const double d = key.real(); !(d == std::floor(d)) || std::fabs(d) >= 9.2e18) {
        char raw[sizeof(d)];
        std::memcpy(raw, &d, sizeof(d));
        out->append("f").append(raw, sizeof(d));
        return true;
      }
      out->append("i").append(std::to_string(static_cast<int64_t>(key.real()))).append(";");
      return true;
    case Kind::kBool:
    case Kind::kInt:
      out->append("i").append(std::to_string(key.integer())).append(";");
      return true;
    case Kind::kSequence:
      if (!key.is_tuple()) return false;
      out->append("(");
      for (const Value& item : key.sequence().items) {
        if (!KeyOf(item, out)) return false;
      }
      out->append(")");
      return true;
    default:
      return false;
  }
}

const Value* Dict::Find(const Value& key) const {
  std::string text;
  if (!KeyOf(key, &text)) return nullptr;
  const auto found = index_.find(text);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Dict::Find(std::string_view key) const { return Find(Value::Str(key)); }

void Dict::Set(Value key, Value value) {
  depth_ = std::max({depth_, key.depth() + 1, value.depth() + 1});
  weight_ = AddWeight(weight_, AddWeight(key.weight(), value.weight()));
  std::string text;
  KeyOf(key, &text);
  const auto [found, added] = index_.emplace(std::move(text), entries_.size());
  if (added) {
    entries_.emplace_back(std::move(key), std::move(value));
  } else {
    entries_[found->second].second = std::move(value);
  }
}

Value* Namespace::Find(std::string_view name) {
  for (auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

bool IsTrue(const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.integer() != 0;
    case Kind::kFloat:
      return value.real() != 0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kSequence:
      return !value.sequence().items.empty();
    case Kind::kDict:
      return value.dict().size() != 0;
    default:
      return true;
  }
}

bool Equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
    // An int that a double cannot hold equals none.
    if (a.is_integral() != b.is_integral()) {
      const int64_t i = a.is_integral() ? a.integer() : b.integer();
      const double d = a.is_integral() ? b.real() : a.real();
      return static_cast<double>(i) == d && std::fabs(d) < 9.2e18 && static_cast<int64_t>(d) == i;
    }
    return a.real() == b.real();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return a.bytes() == b.bytes();
    case Kind::kSequence:
      return EqualSequences(a.sequence(), b.sequence());
    case Kind::kDict: {
      if (a.dict().size() != b.dict().size()) return false;
      for (const auto& [key, value] : a.dict().entries()) {
        const Value* other = b.dict().Find(key);
        if (other == nullptr || !Equal(value, *other)) return false;
      }
      return true;
    }
    default:
      return a.Same(b);
  }
}

const char* TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return value.safe() ? "Markup" : "str";
    case Kind::kSequence:
      switch (value.sequence().type) {
        case SequenceType::kList:
          return "list";
        case SequenceType::kTuple:
        case SequenceType::kGroup:
          return "tuple";
        case SequenceType::kRange:
          return "range";
        case SequenceType::kKeys:
          return "dict_keys";
        case SequenceType::kValues:
          return "dict_values";
        case SequenceType::kItems:
          return "dict_items";
      }
      return "list";
    case Kind::kDict:
      return "dict";
    case Kind::kIterator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kCallable:
      return value.callable().macro != nullptr ? "Macro" : "function";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCycler:
      return value.cycler().joins ? "Joiner" : "Cycler";
  }
  return "object";
}

}  // namespace duo::jinja
