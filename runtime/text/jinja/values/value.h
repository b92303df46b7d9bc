// Value: what an expression of a template gives, with Python's types and Python's rules for them.
// What: undefined, None, bool, int (64 bits), float, str, list, tuple, dict and what walks over them, and the few kinds
// of object that a template can hold (namespaces, functions, macros, loops). Containers never change once they are made
// (the sandbox forbids it); namespaces, iterators and cyclers do. Ownership: values share what they hold; a run keeps
// every namespace that it made and empties them all at its end, so that cycles are let go. Threads: a run's values
// belong to its thread, but containers without objects may be read from any. Errors: none here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/text/jinja/values/text.h"

namespace duo::jinja {

class Value;
struct Sequence;
class Dict;
struct Iterator;
struct Namespace;
struct Callable;
struct Loop;
struct Cycler;

enum class Kind : uint8_t {
  kMissing,    // a variable that nothing was assigned to; never the value of an expression
  kUndefined,  // what a look-up that found nothing gives
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kSequence,
  kDict,
  kIterator,
  kNamespace,
  kCallable,
  kLoop,
  kCycler,
};

// A str. safe: Markup, whose `+`, `%` and methods escape what they are given.
struct String {
  Text text;
  bool safe = false;
};

struct Undefined {
  std::string why;  // "'x' is undefined"
};

class Value {
 public:
  Value() = default;  // missing
  static Value None() { return Value(Kind::kNone, std::monostate()); }
  static Value Undef(std::string why);
  static Value Bool(bool b) { return Value(Kind::kBool, int64_t{b}); }
  static Value Int(int64_t i) { return Value(Kind::kInt, i); }
  static Value Float(double d) { return Value(Kind::kFloat, d); }
  static Value Str(Text text, bool safe = false);
  static Value Str(std::string_view text) { return Str(Text(std::string(text))); }
  static Value List(std::vector<Value> items);
  static Value Tuple(std::vector<Value> items);
  static Value Of(std::shared_ptr<const Sequence> s) { return Value(Kind::kSequence, std::move(s)); }
  static Value Of(std::shared_ptr<const Dict> d) { return Value(Kind::kDict, std::move(d)); }
  static Value Of(std::shared_ptr<Iterator> i) { return Value(Kind::kIterator, std::move(i)); }
  static Value Of(std::shared_ptr<Namespace> n) { return Value(Kind::kNamespace, std::move(n)); }
  static Value Of(std::shared_ptr<const Callable> c) { return Value(Kind::kCallable, std::move(c)); }
  static Value Of(std::shared_ptr<Loop> l) { return Value(Kind::kLoop, std::move(l)); }
  static Value Of(std::shared_ptr<Cycler> c) { return Value(Kind::kCycler, std::move(c)); }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_missing() const { return kind_ == Kind::kMissing; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }

  // Each only for a value of that kind.
  const std::string& why() const { return Get<std::shared_ptr<const Undefined>>()->why; }
  bool boolean() const { return Get<int64_t>() != 0; }
  int64_t integer() const { return Get<int64_t>(); }  // a bool's too
  double real() const { return kind_ == Kind::kFloat ? Get<double>() : static_cast<double>(Get<int64_t>()); }
  const Text& text() const { return Get<std::shared_ptr<const String>>()->text; }
  const std::string& bytes() const { return text().bytes(); }
  bool safe() const { return is_string() && Get<std::shared_ptr<const String>>()->safe; }
  const Sequence& sequence() const { return *Get<std::shared_ptr<const Sequence>>(); }
  const Dict& dict() const { return *Get<std::shared_ptr<const Dict>>(); }
  const std::shared_ptr<const Dict>& shared_dict() const { return Get<std::shared_ptr<const Dict>>(); }
  Iterator& iterator() const { return *Get<std::shared_ptr<Iterator>>(); }
  Namespace& names() const { return *Get<std::shared_ptr<Namespace>>(); }
  const Callable& callable() const { return *Get<std::shared_ptr<const Callable>>(); }
  Loop& loop() const { return *Get<std::shared_ptr<Loop>>(); }
  const std::shared_ptr<Loop>& shared_loop() const { return Get<std::shared_ptr<Loop>>(); }
  Cycler& cycler() const { return *Get<std::shared_ptr<Cycler>>(); }

  bool is_list() const;
  bool is_tuple() const;
  // Whether both are the same object, as Python's `is` has it for what a template can hold.
  bool Same(const Value& other) const;
  // How deeply containers lie within each other: 0 for what holds nothing.
  int depth() const;
  // How much there is to look at, to compare or to print: values that many containers share count as often.
  int64_t weight() const;

 private:
  using Payload = std::variant<std::monostate, int64_t, double, std::shared_ptr<const Undefined>,
                               std::shared_ptr<const String>, std::shared_ptr<const Sequence>,
                               std::shared_ptr<const Dict>, std::shared_ptr<Iterator>, std::shared_ptr<Namespace>,
                               std::shared_ptr<const Callable>, std::shared_ptr<Loop>, std::shared_ptr<Cycler>>;
  Value(Kind kind, Payload payload) : kind_(kind), payload_(std::move(payload)) {}
  template <typename T>
  const T& Get() const {
    return std::get<T>(payload_);
  }

  Kind kind_ = Kind::kMissing;
  Payload payload_;
};

enum class SequenceType : uint8_t { kList, kTuple, kRange, kGroup, kKeys, kValues, kItems };

// kGroup: what `groupby` gives, a tuple whose items are called grouper and list. kKeys to kItems: a dict's views.
struct Sequence {
  SequenceType type = SequenceType::kList;
  std::vector<Value> items;
  int64_t start = 0, stop = 0, step = 1;  // of a range
  int depth = 1;
  int64_t weight = 1;
};

// In the order of insertion. Keys that Python holds equal (1, 1.0 and True) are one.
class Dict {
 public:
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  void Set(Value key, Value value);
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  int depth() const { return depth_; }
  int64_t weight() const { return weight_; }

  // The key as text, equal for equal keys; false if the value cannot be one.
  static bool KeyOf(const Value& key, std::string* out);

 private:
  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_map<std::string, size_t> index_;
  int depth_ = 1;
  int64_t weight_ = 1;
};

// Python's generators and iterators: walked over once. A failure that lies within waits until it is reached.
struct Iterator {
  std::vector<Value> items;
  size_t next = 0;
  std::string failure;  // after the last item; empty: none
  int depth = 1;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  Value* Find(std::string_view name);
};

// What `cycler(..)` and `joiner(..)` give.
struct Cycler {
  bool joins = false;
  std::vector<Value> items;
  size_t at = 0;
  bool used = false;
  int depth = 1;
};

std::shared_ptr<Sequence> NewSequence(SequenceType type, std::vector<Value> items);

bool IsTrue(const Value& value);
bool Equal(const Value& a, const Value& b);
const char* TypeName(const Value& value);  // as Python's type(x).__name__ has it

}  // namespace duo::jinja
