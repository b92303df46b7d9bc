// Cases of ranks_test: how a model is placed, cut, stored and fed, what its answer is held to, and the judge that runs
// them over the ranks. One thread; every rank goes through the same cases in the same order.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "tests/golden/golden_model.h"
#include "tests/mpi/rank_setup.h"
#include "tests/mpi/session_steps.h"

namespace duo {

// What an answer is held to. No logits: the tokens alone, all of them.
struct Expected {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // of the first of these tokens, or of all
  std::vector<float> leads;                // [tokens] of the best logit over the second
  float tolerance = 0;
};

struct Case {
  const Golden* golden = nullptr;
  std::vector<int32_t> prompt;
  int64_t new_tokens = 8;
  AttentionMode attention = AttentionMode::kFull;
  std::string pattern;   // folder; empty: the golden's own
  double sparsity = -1;  // below 0: the gates are 0 and 1
  KvFormat kv = KvFormat::kF32;
  std::optional<DType> weights;  // not given: as stored
  Strategy strategy = Strategy::kSplit;
  ExpertPlacement experts = ExpertPlacement::kAuto;
  bool all_chosen = false;  // its golden's config has every token go through all experts
  bool weighted = false;
  int chunk = 0;          // 0: the device's own, which takes these prompts whole
  std::string key_means;  // folder; empty: off
  PrefillSplit prefill = PrefillSplit::kHeads;

  std::string Text() const;  // for people, and what tells cases apart
};

// The placements, weights and chunks of one kind of case: all of them; or, in turn, one for equal and one for unequal
// ranks. More than four ranks share these two between one kind and the next: on few cores their waiting is what costs.
std::vector<Case> Variants(const Case& base, bool all, int world, int* turn);

class Judge {
 public:
  explicit Judge(Ranks& ranks) : ranks_(ranks), device_(*ranks.device), comm_(*ranks.comm) {}

  int failures() const { return failures_; }
  int cases() const { return cases_; }
  bool leader() const { return comm_.rank() == 0; }
  int world() const { return comm_.size(); }
  bool cuda() const { return device_.is_cuda(); }

  // The CPU computes in f32, which rounds 2^16 times finer than the bf16 that the tolerance is derived from; it is held
  // to 2^8 of that where no code can round to another one.
  float Tolerance(const GoldenRun& run, KvFormat kv) const;
  // Of a mixture with coded weights whose tokens choose some of its experts: 16 bits move a router's logits by more
  // than some choices lead by, and another expert is another answer. So it is measured what one GPU's choices and codes
  // move the CPU's logits by (coded_tolerance.h), over texts of which each has such near ties.
  float ToleranceOfChoices(const Case& c, const GoldenRun& run);

  // Cases [first, last) alone are run, and named.
  void Take(int first, int last) {
    first_ = first;
    last_ = last;
  }

  void Check(const Case& c, const Expected& expected);
  // What one rank alone answers to a case; computed once for all that differ in placement, weights and chunk only.
  Expected Alone(Case c, float tolerance);

 private:
  static constexpr int kAll = 1 << 30;
  bool Wanted(int number) const { return number >= first_ && number < last_; }

  Ranks& ranks_;
  Device& device_;
  Communicator& comm_;
  std::map<std::string, Expected> alone_;
  std::map<std::string, float> of_choices_;
  int failures_ = 0, cases_ = 0;
  int seen_ = 0, first_ = 0, last_ = kAll;
};

}  // namespace duo
