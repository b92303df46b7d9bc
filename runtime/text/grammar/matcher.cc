#include "runtime/text/grammar/matcher.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"

namespace duo {
namespace {

using Kind = GrammarNode::Kind;

// In an object's count, above the bits of its members: some member is there; a separator is.
constexpr int64_t kAny = int64_t{1} << 60, kSeparated = int64_t{1} << 61;

}  // namespace

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> trie,
                               const MatcherLimits& limits)
    : grammar_(std::move(grammar)), trie_(std::move(trie)), limits_(limits) {
  steps_ = limits_.steps;
  Enter(grammar_->start, -1);
  state_ = Close();
}

int32_t GrammarMatcher::Intern(int32_t node, int32_t parent, int64_t count) {
  const auto [entry, fresh] = frame_numbers_.try_emplace({node, parent, count}, static_cast<int32_t>(frames_.size()));
  if (fresh) {
    frames_.push_back({node, parent, count});
    memory_ += 3 * sizeof(Frame);
  }
  return entry->second;
}

int32_t GrammarMatcher::InternState(State state) {
  std::sort(state.readings.begin(), state.readings.end());
  std::vector<int32_t> key = state.readings;
  key.push_back(state.may_end ? -1 : -2);
  const auto [entry, fresh] = state_numbers_.try_emplace(std::move(key), static_cast<int32_t>(states_.size()));
  if (fresh) {
    memory_ += static_cast<int64_t>(8 * state.readings.size() + 256 * 4 + sizeof(State));
    state.next.assign(256, kUnknown);
    states_.push_back(std::move(state));
  }
  return entry->second;
}

int32_t GrammarMatcher::Close() {
  visited_.clear();
  making_ = State();
  while (!todo_.empty()) {
    const Frame at = todo_.back();
    todo_.pop_back();
    if (--steps_ < 0 || making_.readings.size() > limits_.readings) {
      steps_ = -1;
      todo_.clear();
      return kDead;
    }
    if (visited_.insert(at).second) Follow(at);
  }
  if (making_.readings.empty() && !making_.may_end) return kDead;
  return InternState(std::move(making_));
}

void GrammarMatcher::Follow(const Frame& at) {
  const GrammarNode& node = grammar_->nodes[at.node];
  switch (node.kind) {
    case Kind::kEnd:
      return Return(at.parent);
    case Kind::kBytes:
      if (grammar_->sets[node.index].any()) making_.readings.push_back(Intern(at.node, at.parent, -1));
      return;
    case Kind::kSplit:
      for (int32_t i = node.index; i < node.index + node.count; ++i) Enter(grammar_->targets[i], at.parent);
      return;
    case Kind::kCall:  // the last call of a rule returns to where the rule does
      return Enter(grammar_->starts[node.index],
                   grammar_->nodes[node.next].kind == Kind::kEnd ? at.parent : Intern(node.next, at.parent, -1));
    case Kind::kRepeat:
      if (node.min == 0) Enter(node.next, at.parent);
      return Enter(grammar_->starts[node.index], Intern(at.node, at.parent, 0));
    case Kind::kObject:
      return EnterObject(at.node, at.parent, 0);
  }
}

void GrammarMatcher::Return(int32_t parent) {
  if (parent < 0) {
    making_.may_end = true;
    return;
  }
  const Frame at = frames_[parent];
  if (at.count < 0) return Enter(at.node, at.parent);
  const GrammarNode& node = grammar_->nodes[at.node];
  if (node.kind == Kind::kObject) return EnterObject(at.node, at.parent, at.count);
  const int64_t done = at.count + 1;
  if (done >= node.min) Enter(node.next, at.parent);
  if (done < node.max) Enter(grammar_->starts[node.index], Intern(at.node, at.parent, done));
}

void GrammarMatcher::EnterObject(int32_t number, int32_t parent, int64_t seen) {
  const GrammarNode& node = grammar_->nodes[number];
  const GrammarObject& object = grammar_->objects[node.index];
  const bool separated = (seen & kSeparated) != 0, any = (seen & kAny) != 0;
  if (!separated && (object.required & ~static_cast<uint64_t>(seen)) == 0) Enter(node.next, parent);
  bool more = object.additional >= 0;
  for (size_t i = 0; i < object.members.size(); ++i) {
    if (object.members[i] < 0 || (seen >> i & 1) != 0) continue;
    more = true;
    if (any && !separated) break;  // first a separator
    Enter(grammar_->starts[object.members[i]], Intern(number, parent, ((seen | kAny) & ~kSeparated) | int64_t{1} << i));
  }
  if (any && !separated) {
    if (more) Enter(grammar_->starts[object.separator], Intern(number, parent, seen | kSeparated));
  } else if (object.additional >= 0) {
    Enter(grammar_->starts[object.additional], Intern(number, parent, (seen | kAny) & ~kSeparated));
  }
}

int32_t GrammarMatcher::Step(int32_t state, uint8_t byte) {
  const int32_t known = states_[state].next[byte];
  if (known != kUnknown) return known;
  for (const int32_t reading : states_[state].readings) {
    const Frame& at = frames_[reading];
    const GrammarNode& node = grammar_->nodes[at.node];
    if (grammar_->sets[node.index][byte]) Enter(node.next, at.parent);
  }
  steps_ -= static_cast<int64_t>(states_[state].readings.size());
  const int32_t next = todo_.empty() ? kDead : Close();
  if (steps_ >= 0) states_[state].next[byte] = next;
  return next;
}

absl::Status GrammarMatcher::Exceeded() const {
  return absl::ResourceExhaustedError(absl::StrCat("the grammar can read this answer in too many ways: more than ",
                                                   limits_.steps, " steps for a token"));
}

// One pass over the trie.
absl::Status GrammarMatcher::Walk(int32_t state) {
  const std::vector<TokenTrie::Node>& nodes = trie_->nodes();
  const std::vector<int32_t>& tokens = trie_->tokens();
  std::vector<uint32_t> mask((trie_->vocab() + 31) / 32);
  std::vector<int32_t> at(trie_->deepest() + 1);
  at[0] = state;
  const auto end = static_cast<int32_t>(nodes.size()) - 1;
  for (int32_t i = 0; i < end;) {
    const TokenTrie::Node& node = nodes[i];
    const int32_t known = states_[at[node.depth - 1]].next[node.byte];
    const int32_t next = known != kUnknown ? known : Step(at[node.depth - 1], node.byte);
    if (next == kDead) {
      if (steps_ < 0) return Exceeded();
      i = node.end;
      continue;
    }
    at[node.depth] = next;
    for (int32_t t = node.tokens; t < nodes[i + 1].tokens; ++t) mask[tokens[t] / 32] |= 1u << (tokens[t] % 32);
    ++i;
  }
  memory_ += static_cast<int64_t>(4 * mask.size());
  states_[state].mask = std::move(mask);
  return absl::OkStatus();
}

absl::Status GrammarMatcher::Mask(const std::vector<int32_t>& end_tokens, std::vector<uint32_t>* mask) {
  steps_ = limits_.steps;
  if (memory_ > limits_.memory) Forget();
  if (states_[state_].mask.empty()) {
    if (absl::Status s = Walk(state_); !s.ok()) return s;
  }
  *mask = states_[state_].mask;
  if (!may_end()) return absl::OkStatus();
  for (const int32_t token : end_tokens) {
    if (token >= 0 && token < trie_->vocab()) (*mask)[token / 32] |= 1u << (token % 32);
  }
  return absl::OkStatus();
}

absl::Status GrammarMatcher::Accept(int32_t token) {
  if (token < 0 || token >= trie_->vocab() || trie_->BytesOf(token).empty()) {
    return absl::InvalidArgumentError(absl::StrCat("token ", token, " is no text"));
  }
  return AcceptBytes(trie_->BytesOf(token));
}

absl::Status GrammarMatcher::AcceptBytes(std::string_view bytes) {
  steps_ = limits_.steps;
  int32_t at = state_;
  for (const char byte : bytes) {
    at = Step(at, static_cast<uint8_t>(byte));
    if (at == kDead && steps_ < 0) return Exceeded();
    if (at == kDead) return absl::InvalidArgumentError("the text is not of the grammar");
  }
  state_ = at;
  return absl::OkStatus();
}

// Everything but the state that the answer is in, and the stacks that lead to it.
void GrammarMatcher::Forget() {
  const State now = std::move(states_[state_]);
  const std::vector<Frame> old = std::exchange(frames_, {});
  frame_numbers_.clear();
  states_.clear();
  state_numbers_.clear();
  memory_ = 0;
  State kept;
  kept.may_end = now.may_end;
  for (const int32_t reading : now.readings) {
    std::vector<Frame> stack;
    for (int32_t at = reading; at >= 0; at = old[at].parent) stack.push_back(old[at]);
    int32_t parent = -1;
    for (size_t i = stack.size(); i-- > 0;) parent = Intern(stack[i].node, parent, stack[i].count);
    kept.readings.push_back(parent);
  }
  state_ = InternState(std::move(kept));
}

}  // namespace duo
