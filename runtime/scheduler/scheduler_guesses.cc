// Drafts that the model makes itself: rows that visit page lists draw what follows, each from the one before, and one
// step of rows that see everything checks them, as it checks drafts from the text (scheduler_drafts.cc). What a guess
// wrote into pages and ring slots lies behind the sequence's length, as rejected drafts do, and is written again by the
// row that checks it: the answer is made of rows that saw everything, to the bit.
//
// Lists are made by those rows (scheduler_lists.cc), every kDenseEvery tokens, while guessing pays.
#include <algorithm>

#include "runtime/scheduler/scheduler.h"

namespace duo {

// most: drafts that the answer may have in this step. Its row of the step becomes the next guess, or the first of those
// that check what was guessed; or it stays as it is.
void Scheduler::PlanGuess(Request& request, int most, Riding* riding) {
  const int64_t length = request.sequence->length;
  const auto count = static_cast<int>(request.guesses.size());
  if (count == 0) {
    const bool may = MayGuess(request) && request.lists.Serves(length);
    request.guesses_wanted = may ? request.self.Choose(most, step_costs_, guess_cost_) : 0;
  }
  const int wanted = std::min(request.guesses_wanted, most);
  if (count < wanted && request.lists.Serves(length + count)) {
    request.guessing = true;
    return;
  }
  if (count == 0) return;
  request.drafts.assign(request.guesses.begin(), request.guesses.begin() + std::min(count, most));
  request.guesses.clear();
  const auto checked = static_cast<int>(request.drafts.size());
  riding->Add(length + 1, checked);
  riding->samples += checked;
}

void Scheduler::AddGuessRow(Request& request, StepPlan* plan) {
  Sequence& sequence = *request.sequence;
  const auto behind = static_cast<int64_t>(request.guesses.size());
  const int32_t token = request.guesses.empty() ? request.tokens.back() : request.guesses.back();
  pool_.Grow(&sequence, sequence.length + behind + 1, plan);
  AddSpan(sequence, sequence.length + behind, &token, 1, false, plan);
  const auto row = static_cast<int>(plan->tokens.size()) - 1;
  AddDraw(request, row, static_cast<int>(behind) + 1, {}, plan, true);
  Part part = {request.id, 0, false, 1, 1, false};
  part.guesses = true;
  parts_.push_back(part);
}

void Scheduler::OnGuessed(Request& request, int32_t token) {
  ++request.result.guess_steps;
  ++stats_.guess_steps;
  if (token >= 0) {
    request.guesses.push_back(token);
  } else {
    request.guesses_wanted = static_cast<int>(request.guesses.size());
    request.self.Rest();  // no number, or nothing is allowed: a row that sees everything is to say so
  }
}

}  // namespace duo
