// Run: one rendering of a template.
// What: walks the tree, holds the variables, and keeps the limits: on steps (work of all kinds, so that nothing runs
// for ever), on how deeply calls lie within each other, and on the bytes of any text. The first failure ends the run:
// Fail notes it with the place in the source, every loop looks at failed(), and what is computed afterwards is thrown
// away. Ownership: the run owns its variables and namespaces; the template and the context must outlive it. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/text/jinja/syntax/names.h"
#include "runtime/text/jinja/values/objects.h"
#include "runtime/text/jinja/values/value.h"

namespace duo::jinja {

struct Limits {
  int64_t steps = 20'000'000;
  size_t bytes = 16 << 20;  // of one text
  int depth = 1200;         // of statements, expressions and calls within each other
};

// The variables of one call of a function.
struct Variables {
  std::vector<Value> slots;
  Variables* outer = nullptr;
  bool held = false;  // a macro or a loop looks into them: they stay until the run ends
};

using Context = std::unordered_map<std::string, Value>;
using Clock = std::function<std::string(const std::string& format)>;  // the time now, as strftime writes it

class Run {
 public:
  Run(const Context& context, const Clock& clock, const Limits& limits)
      : context_(context), clock_(clock), limits_(limits) {}
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  // The whole template's text; nothing useful after a failure.
  Text Render(const ResolvedTemplate& resolved);
  bool failed() const { return failed_; }
  const SourceError& error() const { return error_; }

  // For the library. Where one cannot be done it fails, and what it returns is undefined or false.
  Value Fail(std::string message);
  bool Recover(std::string* why);  // forgets a failure, for what Python would compute only when it is read
  bool Charge(int64_t work);       // false once the run may not go on
  bool CanMake(size_t bytes);      // whether a text or list of that size may be made; charges for it
  Value Make(Text text, bool safe = false);
  Value MakeList(std::vector<Value> items);
  bool Str(const Value& value, Text* out);  // str(value), appended
  Value Call(const Value& callee, const Arguments& arguments);
  Value Filter(const std::string& name, const Value& value, const Arguments& arguments);
  bool Test(const std::string& name, const Value& value, const Arguments& arguments);
  Value GetAttribute(const Value& of, const std::string& name);  // of.name
  Value GetItem(const Value& of, const Value& index);            // of[index]
  bool Next(Loop& loop, Value* item);
  std::shared_ptr<Namespace> NewNamespace();
  std::string Now(const std::string& format) { return clock_(format); }
  size_t most_bytes() const { return limits_.bytes; }

 private:
  enum class Signal { kGoOn, kBreak, kContinue };
  class Level;

  // statements.cc
  Signal Execute(const Nodes& body);
  Signal Execute(const Node& node);
  Signal ExecuteFor(const Node& node);
  Signal ExecuteLoop(const Node& node, Value iterable, Variables* outer, int level);
  Signal ExecuteIf(const Node& node);
  Signal ExecuteWith(const Node& node);
  // Enters the block's scope and runs its body; what it writes becomes the value, if the run is to go on.
  Signal Capture(const Node& node, Value* value);
  Signal ExecuteSetBlock(const Node& node);
  Signal ExecuteFilterBlock(const Node& node);
  void ExecuteOutput(const Node& node);
  void ExecuteSet(const Node& node);
  bool CheckNamespaces(const Node& target);
  void Assign(const Node& target, const Value& value);
  void Write(const Value& value);
  void WriteBlock(const Value& value);  // what must be a str, as the text of a call or filter block
  void Enter(const Scope& scope);
  void Leave(const Scope& scope);
  Value& At(const Place& place);

  // expressions.cc
  Value Evaluate(const Node& node);
  Value EvaluateKind(const Node& node);
  Value EvaluateDict(const Node& node);
  Value EvaluateCompare(const Node& node);
  Value EvaluateConcat(const Node& node);
  Value EvaluateGetItem(const Node& node);
  Value EvaluateFilter(const Node& node, const Value* body);
  Value EvaluateTest(const Node& node);
  bool EvaluateArguments(const CallArguments& call, Arguments* arguments);
  bool EvaluateItems(const Nodes& nodes, std::vector<Value>* items);

  // calls.cc
  Value MakeMacro(const Node& node);
  Value CallMacro(const Callable& macro, const Arguments& arguments);
  Value CallLoop(const Node& node, const Value& iterable, Variables* outer, int level);
  Variables* NewVariables(int slots, Variables* outer);
  void DropVariables(Variables* variables);
  static void Hold(Variables* variables);

  const Context& context_;
  const Clock& clock_;
  const Limits& limits_;
  int64_t steps_ = 0;
  int depth_ = 0;
  bool failed_ = false;
  SourceError error_;
  size_t at_ = 0;  // the offset of what is being run, for messages
  Text* out_ = nullptr;
  Variables* variables_ = nullptr;
  std::vector<std::unique_ptr<Variables>> owned_;  // those in use, and those that are held
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

// One step into a statement, an expression or a call, for the limit on how deep they lie.
class Run::Level {
 public:
  explicit Level(Run* run) : run_(*run) {
    if (++run_.depth_ > run_.limits_.depth) run_.Fail("the template's calls lie too deep within each other");
  }
  ~Level() { --run_.depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Run& run_;
};

}  // namespace duo::jinja
