// Drafter: proposes what one answer may go on with, from texts that were read: the document, the question, the answer
// so far. A proposal is checked by the model in the answer's own step (scheduler_drafts.cc), so it need not be right;
// what is decided here is whether it is worth its rows. That follows from how often proposals of its kind were right
// lately (DraftOdds) and from what steps of more rows were measured to cost (StepCosts). A proposal that is not worth
// it is still kept and compared with what is drawn, so that odds are learnt without paying for it. Plain values; not
// thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/row_cuts.h"
#include "runtime/drafts/draft_index.h"

namespace duo {

// Of one answer in one step: its step then gives each row the bits that it has alone.
constexpr int kMostDrafts = kExactRows - 1;

// How often the next proposed token is the right one, by the length of the match that it comes from.
class DraftOdds {
 public:
  double Of(int matched) const { return odds_[Kind(matched)]; }
  void Learn(int matched, bool right, double weight);

 private:
  static constexpr int kKinds = 5;
  static int Kind(int matched);
  std::array<double, kKinds> odds_ = {0.35, 0.5, 0.65, 0.8, 0.9};  // until there is something to learn from
};

// What a step of some rows takes, in steps of one row.
class StepCosts {
 public:
  // per_row: of a step of one row, that each further row adds; a guess until steps are measured.
  explicit StepCosts(double per_row);
  double Of(int rows) const { return ratios_[Kind(rows)]; }
  void Measured(int rows, double seconds);
  double one() const { return one_; }  // seconds of a step of one row; 0: not measured yet

 private:
  static constexpr int kKinds = 5;  // up to 1, 2, 4, 8, 16 rows: as the kernels take them
  static int Kind(int rows);
  std::array<double, kKinds> guesses_, ratios_;
  double one_ = 0;  // seconds of a step of one row; 0: not measured yet
};

// The step that drafts would ride in, as planned so far: its rows, and the tokens that it is expected to give.
struct PlannedStep {
  int rows = 0;
  double tokens = 0;
};

// A text that may be quoted, and its index.
struct QuotableText {
  std::span<const int32_t> tokens;
  const DraftIndex* index = nullptr;
};

class Drafter {
 public:
  // Indexes more of the context while it is read.
  void Read(std::span<const int32_t> context);
  // context: the answer's question and what of it is drawn; between two calls it only grows. texts: in the same order
  // at every call. Returns at most `most` tokens that are expected to follow and to be worth their rows, and counts
  // them in `step`; valid until the next call. odds: those of all answers.
  std::span<const int32_t> Propose(std::span<const int32_t> context, std::span<const QuotableText> texts, int most,
                                   const StepCosts& costs, DraftOdds* odds, PlannedStep* step);

 private:
  void Learn(std::span<const int32_t> context, DraftOdds* all);
  void Look(std::span<const int32_t> context, std::span<const QuotableText> texts);

  DraftIndex own_;                 // of the context
  DraftOdds odds_;                 // of this answer
  bool began_ = false;             // odds_ are its own
  size_t seen_ = 0;                // tokens of the context at the last call
  int source_ = -1;                // the text that the last match is in; texts.size(): the context; -1: there was none
  DraftMatch match_;               // of the last call
  std::vector<int32_t> expected_;  // what follows it there, whether or not it was proposed
};

}  // namespace duo
