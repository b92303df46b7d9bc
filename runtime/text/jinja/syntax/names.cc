#include "runtime/text/jinja/syntax/names.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/syntax/symbols.h"

namespace duo::jinja {
namespace {

// Puts places into nodes, scope by scope.
class Resolver {
 public:
  Resolver(const KnownNames& known, SourceError* error) : known_(known), error_(*error) {}

  bool Template(ResolvedTemplate* resolved) {
    Function function;
    Symbols symbols(nullptr, &function);
    Analysis(&symbols).Statements(resolved->body);
    Frame frame{&symbols, &function, false, false};
    Statements(resolved->body, frame);
    resolved->scope = MakeScope(frame);
    resolved->slots = static_cast<int>(function.slots.size());
    return !failed_;
  }

 private:
  struct Frame {
    Symbols* symbols;
    Function* function;
    bool soft;     // within an `if` of this scope: an unknown filter fails only where it is reached
    bool in_loop;  // break and continue have a meaning
  };

  void Fail(std::string message, size_t offset) {
    if (!failed_) error_ = {std::move(message), offset};
    failed_ = true;
  }

  Place PlaceOf(const Reference& reference, const Function* from) {
    Place place{0, reference.slot};
    for (; from != reference.function; from = from->outer) ++place.up;
    return place;
  }

  Place PlaceOf(const std::string& name, const Frame& frame, size_t offset) {
    const std::optional<Reference> found = frame.symbols->Find(name);
    if (found.has_value()) return PlaceOf(*found, frame.function);
    Fail(absl::StrCat("the name ", name, " cannot be used here"), offset);
    return {};
  }

  Scope MakeScope(const Frame& frame) {
    Scope scope;
    for (const auto& [slot, beginning] : frame.symbols->beginnings) {
      scope.slots.push_back(slot);
      Load load{slot, Load::From::kNothing, {}, ""};
      switch (beginning.from) {
        case Beginning::From::kParameter:
          continue;
        case Beginning::From::kContext:
          load.from = Load::From::kContext;
          load.name = beginning.name;
          break;
        case Beginning::From::kOuter:
          load.from = Load::From::kOuter;
          load.outer = PlaceOf(beginning.outer, frame.function);
          break;
        case Beginning::From::kNothing:
          break;
      }
      scope.loads.push_back(std::move(load));
    }
    return scope;
  }

  void Expression(Node& node, const Frame& frame) {
    Frame inner = frame;
    switch (node.kind) {
      case NodeKind::kName:
        node.place = PlaceOf(node.name, frame, node.offset);
        return;
      case NodeKind::kFilter:
        if (!frame.soft && !known_.has_filter(node.name))
          Fail(absl::StrCat("there is no filter ", node.name), node.offset);
        break;
      case NodeKind::kTest:
        if (!frame.soft && !known_.has_test(node.name)) Fail(absl::StrCat("there is no test ", node.name), node.offset);
        break;
      case NodeKind::kChoice:
        inner.soft = true;
        break;
      default:
        break;
    }
    EachPart(node, [&](const Node& part) { Expression(const_cast<Node&>(part), inner); });
  }

  void Target(Node& node, const Frame& frame) {
    if (node.kind == NodeKind::kTuple) {
      for (const NodePtr& item : node.items) Target(*item, frame);
    } else {
      node.place = PlaceOf(node.name, frame, node.offset);
    }
  }

  void Statements(Nodes& body, const Frame& frame) {
    for (const NodePtr& node : body) Statement(*node, frame);
  }

  void Statement(Node& node, const Frame& frame) {
    switch (node.kind) {
      case NodeKind::kOutput:
        for (const NodePtr& item : node.items) Expression(*item, frame);
        break;
      case NodeKind::kFor:
        For(node, frame);
        break;
      case NodeKind::kIf: {
        Frame soft = frame;
        soft.soft = true;
        Expression(*node.a, soft);
        Statements(node.body, soft);
        Statements(node.items, soft);
        Statements(node.other, soft);
        break;
      }
      case NodeKind::kMacro:
        MacroBody(node, frame);
        node.place = PlaceOf(node.name, frame, node.offset);
        break;
      case NodeKind::kCallBlock:
        MacroBody(node, frame);
        Expression(*node.a, frame);
        break;
      case NodeKind::kGeneration:
        MacroBody(node, frame);
        break;
      case NodeKind::kFilterBlock: {
        Symbols symbols(frame.symbols, frame.function);
        Analysis analysis(&symbols);
        analysis.Statements(node.body);
        analysis.Read(*node.a);
        const Frame inner{&symbols, frame.function, false, frame.in_loop};
        Statements(node.body, inner);
        Expression(*node.a, inner);
        node.scope = MakeScope(inner);
        break;
      }
      case NodeKind::kWith: {
        Symbols symbols(frame.symbols, frame.function);
        Analysis analysis(&symbols);
        for (const NodePtr& target : node.items) analysis.Target(*target, true);
        analysis.Statements(node.body);
        const Frame inner{&symbols, frame.function, false, frame.in_loop};
        for (const NodePtr& target : node.items) Target(*target, inner);
        for (const NodePtr& value : node.defaults) Expression(*value, frame);
        Statements(node.body, inner);
        node.scope = MakeScope(inner);
        break;
      }
      case NodeKind::kSet:
        Target(*node.a, frame);
        Expression(*node.b, frame);
        break;
      case NodeKind::kSetBlock: {
        Symbols symbols(frame.symbols, frame.function);
        Analysis(&symbols).Statements(node.body);
        const Frame inner{&symbols, frame.function, false, frame.in_loop};
        Statements(node.body, inner);
        Target(*node.a, frame);
        if (node.b != nullptr) Expression(*node.b, inner);
        node.scope = MakeScope(inner);
        break;
      }
      case NodeKind::kBreak:
      case NodeKind::kContinue:
        if (!frame.in_loop)
          Fail(absl::StrCat(node.kind == NodeKind::kBreak ? "break" : "continue", " stands outside of every loop"),
               node.offset);
        break;
      default:
        break;
    }
  }

  static bool StoresLoop(const Node& node) {
    const auto target_is_loop = [](const Node& target, const auto& self) -> bool {
      if (target.kind == NodeKind::kTuple) {
        for (const NodePtr& item : target.items) {
          if (self(*item, self)) return true;
        }
      }
      return target.kind == NodeKind::kName && target.name == "loop";
    };
    if (node.kind == NodeKind::kFor || node.kind == NodeKind::kSet || node.kind == NodeKind::kSetBlock) {
      if (target_is_loop(*node.a, target_is_loop)) return true;
    }
    for (const Nodes* part : {&node.body, &node.other, &node.items}) {
      for (const NodePtr& inner : *part) {
        if (inner != nullptr && StoresLoop(*inner)) return true;
      }
    }
    return false;
  }

  void For(Node& node, const Frame& frame) {
    if (StoresLoop(node)) Fail("loop cannot be assigned to within a loop", node.offset);
    Function own{frame.function, {}};
    Function* const function = node.recursive ? &own : frame.function;

    Symbols symbols(frame.symbols, function);
    node.loop_slot = symbols.Parameter("loop");
    Analysis analysis(&symbols);
    analysis.Target(*node.a, true);
    analysis.Statements(node.body);
    Symbols other(frame.symbols, function);
    Analysis(&other).Statements(node.other);

    Expression(*node.b, frame);
    if (node.c != nullptr) {
      Function test_function{frame.function, {}};
      Symbols test(frame.symbols, &test_function);
      Analysis test_analysis(&test);
      test_analysis.Target(*node.items[0], true);
      test_analysis.Read(*node.c);
      const Frame inner{&test, &test_function, false, false};
      Target(*node.items[0], inner);
      Expression(*node.c, inner);
      node.test_scope = MakeScope(inner);
      node.test_slots = static_cast<int>(test_function.slots.size());
    }
    const Frame inner{&symbols, function, false, true};
    Target(*node.a, inner);
    Statements(node.body, inner);
    node.scope = MakeScope(inner);
    const Frame other_frame{&other, function, false, !node.recursive && frame.in_loop};
    Statements(node.other, other_frame);
    node.other_scope = MakeScope(other_frame);
    node.function_slots = static_cast<int>(function->slots.size());
  }

  void MacroBody(Node& node, const Frame& frame) {
    Function function{frame.function, {}};
    Symbols symbols(frame.symbols, &function);
    bool explicit_caller = false, own_kwargs = false, own_varargs = false;
    FreeNames free({"caller", "kwargs", "varargs"});
    free.Visit(node.body);
    const auto analyse = [&] {
      Analysis analysis(&symbols);
      for (const NodePtr& parameter : node.items) analysis.Target(*parameter, true);
      for (const NodePtr& value : node.defaults) analysis.Read(*value);
      analysis.Statements(node.body);
    };
    analyse();
    for (size_t i = 0; i < node.items.size(); ++i) {
      const std::string& name = node.items[i]->name;
      own_kwargs |= name == "kwargs";
      own_varargs |= name == "varargs";
      if (name != "caller") continue;
      explicit_caller = true;
      if (free.Has("caller") && i + node.defaults.size() < node.items.size())
        Fail("the parameter caller needs a default", node.items[i]->offset);
    }
    if (free.Has("caller") && !explicit_caller) node.caller_slot = symbols.Parameter("caller");
    if (free.Has("kwargs") && !own_kwargs) node.kwargs_slot = symbols.Parameter("kwargs");
    if (free.Has("varargs") && !own_varargs) node.varargs_slot = symbols.Parameter("varargs");
    analyse();
    const Frame inner{&symbols, &function, false, false};
    for (const NodePtr& parameter : node.items) Target(*parameter, inner);
    for (const NodePtr& value : node.defaults) Expression(*value, inner);
    Statements(node.body, inner);
    node.scope = MakeScope(inner);
    node.function_slots = static_cast<int>(function.slots.size());
  }

  const KnownNames& known_;
  SourceError& error_;
  bool failed_ = false;
};

}  // namespace

bool ResolveNames(const KnownNames& known, ResolvedTemplate* resolved, SourceError* error) {
  return Resolver(known, error).Template(resolved);
}

}  // namespace duo::jinja
