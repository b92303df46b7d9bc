// Symbols: which names a scope refers to and assigns to, found before a template runs (names.h says why).
// Ownership: a scope's symbols point at those around it and at their function, which must outlive them. One thread.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/text/jinja/syntax/ast.h"

namespace duo::jinja {

// What runs with variables of its own: the template, a macro, a call block, a recursive loop, a loop's condition.
struct Function {
  Function* outer = nullptr;
  std::map<std::pair<int, std::string>, int> slots;  // by level and name

  int Slot(int level, const std::string& name) {
    return slots.emplace(std::pair(level, name), static_cast<int>(slots.size())).first->second;
  }
};

struct Reference {
  Function* function = nullptr;
  int slot = 0;
};

struct Beginning {
  enum class From { kParameter, kContext, kOuter, kNothing } from = From::kNothing;
  std::string name;
  Reference outer;
};

// The names of one scope: which it refers to, which it assigns to, and what each begins as.
struct Symbols {
  Symbols* parent = nullptr;
  Function* function = nullptr;
  int level = 0;
  std::map<std::string, Reference> references;
  std::map<int, Beginning> beginnings;  // by slot
  std::set<std::string> stores;

  Symbols(Symbols* p, Function* f) : parent(p), function(f), level(p == nullptr ? 0 : p->level + 1) {}

  std::optional<Reference> Find(const std::string& name) const {
    for (const Symbols* s = this; s != nullptr; s = s->parent) {
      if (const auto found = s->references.find(name); found != s->references.end()) return found->second;
    }
    return std::nullopt;
  }

  int Define(const std::string& name, Beginning beginning) {
    const int slot = function->Slot(level, name);
    references[name] = {function, slot};
    beginnings[slot] = std::move(beginning);
    return slot;
  }
  int Parameter(const std::string& name) {
    stores.insert(name);
    return Define(name, {Beginning::From::kParameter, name, {}});
  }
  void Read(const std::string& name) {
    if (!Find(name).has_value()) Define(name, {Beginning::From::kContext, name, {}});
  }
  void Store(const std::string& name) {
    stores.insert(name);
    if (references.contains(name)) return;
    const std::optional<Reference> outer = parent == nullptr ? std::nullopt : parent->Find(name);
    Define(name, outer.has_value() ? Beginning{Beginning::From::kOuter, name, *outer}
                                   : Beginning{Beginning::From::kNothing, name, {}});
  }

  // After an `if`: what only some of its branches assign to must have a value on the other ways too.
  void Merge(const std::vector<Symbols>& branches) {
    std::set<std::string> assigned;
    for (const Symbols& branch : branches) {
      for (const std::string& name : branch.stores) {
        if (!stores.contains(name)) assigned.insert(name);
      }
    }
    for (const Symbols& branch : branches) {
      for (const auto& [name, reference] : branch.references) references[name] = reference;
      for (const auto& [slot, beginning] : branch.beginnings) beginnings[slot] = beginning;
      stores.insert(branch.stores.begin(), branch.stores.end());
    }
    for (const std::string& name : assigned) {
      const Reference target = references.at(name);
      const std::optional<Reference> outer = parent == nullptr ? std::nullopt : parent->Find(name);
      beginnings[target.slot] = outer.has_value() ? Beginning{Beginning::From::kOuter, name, *outer}
                                                  : Beginning{Beginning::From::kContext, name, {}};
    }
  }
};

// Calls `visit` for every expression right below an expression.
template <typename Visit>
void EachPart(const Node& node, Visit visit) {
  for (const NodePtr* part : {&node.a, &node.b, &node.c}) {
    if (*part != nullptr) visit(**part);
  }
  for (const NodePtr& item : node.items) {
    if (item != nullptr) visit(*item);
  }
  for (const NodePtr& argument : node.call.positional) visit(*argument);
  for (const auto& [name, argument] : node.call.named) visit(*argument);
  for (const NodePtr* star : {&node.call.star, &node.call.double_star}) {
    if (*star != nullptr) visit(**star);
  }
}

// What a scope's statements read and assign to, in the order of the source. Scopes within it are not entered.
class Analysis {
 public:
  explicit Analysis(Symbols* symbols) : symbols_(symbols) {}

  void Read(const Node& node) {
    if (node.kind == NodeKind::kName) {
      symbols_->Read(node.name);
    } else {
      EachPart(node, [this](const Node& part) { Read(part); });
    }
  }

  void Target(const Node& node, bool parameter) {
    if (node.kind == NodeKind::kAttribute) {
      symbols_->Read(node.name);
    } else if (node.kind == NodeKind::kTuple) {
      for (const NodePtr& item : node.items) Target(*item, parameter);
    } else if (parameter) {
      symbols_->Parameter(node.name);
    } else {
      symbols_->Store(node.name);
    }
  }

  void Statements(const Nodes& body) {
    for (const NodePtr& node : body) Statement(*node);
  }

 private:
  void Statement(const Node& node) {
    switch (node.kind) {
      case NodeKind::kOutput:
        for (const NodePtr& item : node.items) Read(*item);
        break;
      case NodeKind::kFor:
        Read(*node.b);
        break;
      case NodeKind::kIf:
        If(node);
        break;
      case NodeKind::kMacro:
        symbols_->Store(node.name);
        break;
      case NodeKind::kCallBlock:
      case NodeKind::kFilterBlock:
        Read(*node.a);
        break;
      case NodeKind::kWith:
        for (const NodePtr& value : node.defaults) Read(*value);
        break;
      case NodeKind::kSet:
        Read(*node.b);
        Target(*node.a, false);
        break;
      case NodeKind::kSetBlock:
        Target(*node.a, false);
        break;
      default:
        break;
    }
  }

  void If(const Node& node) {
    Read(*node.a);
    Symbols* const outside = symbols_;
    std::vector<Symbols> branches(3, *outside);
    symbols_ = &branches[0];
    Statements(node.body);
    symbols_ = &branches[1];
    Statements(node.items);
    symbols_ = &branches[2];
    Statements(node.other);
    symbols_ = outside;
    outside->Merge(branches);
  }

  Symbols* symbols_;
};

// Which of `names` the statements read before they assign to them.
class FreeNames {
 public:
  explicit FreeNames(std::set<std::string> names) : names_(std::move(names)) {}

  void Visit(const Nodes& nodes) {
    for (const NodePtr& node : nodes) Visit(*node);
  }
  bool Has(const char* name) const { return free_.contains(name); }

 private:
  void Assign(const Node& node) {
    if (node.kind == NodeKind::kTuple) {
      for (const NodePtr& item : node.items) Assign(*item);
    } else if (node.kind == NodeKind::kName) {
      names_.erase(node.name);
    }
  }
  void Visit(const Node& node) {
    switch (node.kind) {
      case NodeKind::kName:
        if (names_.contains(node.name)) free_.insert(node.name);
        return;
      case NodeKind::kFor:
        Assign(*node.a);
        Visit(*node.b);
        Visit(node.body);
        Visit(node.other);
        if (node.c != nullptr) Visit(*node.c);
        return;
      case NodeKind::kIf:
        Visit(*node.a);
        Visit(node.body);
        Visit(node.items);
        Visit(node.other);
        return;
      case NodeKind::kCallBlock:
        Visit(*node.a);
        [[fallthrough]];
      case NodeKind::kMacro:
      case NodeKind::kWith:
        for (const NodePtr& item : node.items) Assign(*item);
        Visit(node.defaults);
        Visit(node.body);
        return;
      case NodeKind::kFilterBlock:
        Visit(node.body);
        Visit(*node.a);
        return;
      case NodeKind::kSet:
      case NodeKind::kSetBlock:
        Assign(*node.a);
        if (node.b != nullptr) Visit(*node.b);
        Visit(node.body);
        return;
      case NodeKind::kGeneration:
        Visit(node.body);
        return;
      default:
        EachPart(node, [this](const Node& part) { Visit(part); });
    }
  }

  std::set<std::string> names_, free_;
};

}  // namespace duo::jinja
