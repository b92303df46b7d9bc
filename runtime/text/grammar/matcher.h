// GrammarMatcher: one answer on its way through a grammar: which tokens may come next, and what has come.
//
// What: a state is the set of all ways in which the bytes so far can be read, each a stack of calls and counts. Stacks
// share what they have in common, states and the steps between them are kept, and so are their masks: an answer that
// comes back to a state (the inside of a string, say) gets its mask without a walk.
// Limits: a mask and a byte take bounded work and the whole bounded memory; past them the answer ends with
// RESOURCE_EXHAUSTED, whatever the grammar. Ownership: keeps grammar and trie alive. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "runtime/text/grammar/grammar.h"
#include "runtime/text/grammar/token_trie.h"

namespace duo {

struct MatcherLimits {
  int64_t steps = 400'000;             // of the automaton, for one mask or one token
  int64_t memory = int64_t{64} << 20;  // bytes that are kept between masks
  size_t readings = 2'000;             // at once
};

class GrammarMatcher {
 public:
  GrammarMatcher(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> trie,
                 const MatcherLimits& limits = {});

  // A bit for each token: its bytes may come next; end_tokens: where the text may end here.
  absl::Status Mask(const std::vector<int32_t>& end_tokens, std::vector<uint32_t>* mask);
  // The token was drawn. INVALID_ARGUMENT where the mask did not allow it.
  absl::Status Accept(int32_t token);
  absl::Status AcceptBytes(std::string_view bytes);
  bool may_end() const { return states_[state_].may_end; }
  bool must_end() const { return states_[state_].readings.empty(); }  // nothing can follow

 private:
  // A place to return to: behind a call (count -1), in a repeat or an object (its count), or one that takes a byte.
  struct Frame {
    int32_t node = 0, parent = -1;
    int64_t count = -1;
    friend bool operator==(const Frame&, const Frame&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Frame& f) {
      return H::combine(std::move(h), f.node, f.parent, f.count);
    }
  };
  struct State {
    std::vector<int32_t> readings;  // frames that take a byte, ascending
    bool may_end = false;
    std::vector<int32_t> next;   // by byte; kUnknown, kDead or a state
    std::vector<uint32_t> mask;  // without end tokens; empty: not made yet
  };
  static constexpr int32_t kUnknown = -1, kDead = -2;

  int32_t Intern(int32_t node, int32_t parent, int64_t count);
  int32_t InternState(State state);
  // Follows all that takes no byte, from these places on.
  int32_t Close();
  void Enter(int32_t node, int32_t parent) { todo_.push_back({node, parent, -1}); }
  void Follow(const Frame& at);
  void Return(int32_t parent);
  void EnterObject(int32_t node, int32_t parent, int64_t seen);
  int32_t Step(int32_t state, uint8_t byte);
  absl::Status Walk(int32_t state);
  absl::Status Exceeded() const;
  void Forget();

  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<const TokenTrie> trie_;
  MatcherLimits limits_;
  std::vector<Frame> frames_;
  absl::flat_hash_map<Frame, int32_t> frame_numbers_;
  std::vector<State> states_;
  absl::flat_hash_map<std::vector<int32_t>, int32_t> state_numbers_;  // of readings, and may_end at the end
  int32_t state_ = 0;
  int64_t steps_ = 0;   // left
  int64_t memory_ = 0;  // taken
  std::vector<Frame> todo_;
  absl::flat_hash_set<Frame> visited_;
  State making_;
};

}  // namespace duo
