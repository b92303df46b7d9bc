// Drafts that the model makes itself: rows that see a part of what came before (GuessKind) draw what follows, each from
// the one before, and one step of rows that see everything checks them, as it checks drafts from the text
// (scheduler_drafts.cc). What a guess wrote into pages and ring slots lies behind the sequence's length, as rejected
// drafts do, and is written again by the row that checks it: the answer is made of rows that saw everything, to the
// bit.
//
// Lists are made by those rows (scheduler_lists.cc), every kDenseEvery tokens, while guessing by them pays.
#include <algorithm>
#include <utility>

#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

static_assert(SelfDrafts::kListsServe == kDenseEvery);

// Of the steps that an answer may still take another model may spend so much on reading its text, and so many at most
// are counted on: answers end before they must.
constexpr double kReadShare = 0.03;
constexpr int64_t kForetold = 512;

}  // namespace

// May the row at `position` guess? One that sees no less than any other is only worth it by a copy of the weights, and
// where no list serves.
MayGuessBy Scheduler::CanGuess(const Request& r, GuessKind kind, int64_t position) const {
  const auto if_so = [](bool can) { return can ? MayGuessBy::kNow : MayGuessBy::kNo; };
  const int64_t pages = position / kPageTokens + 1;
  if (kind == GuessKind::kEnds) return if_so(pages >= options_.ends_pages);
  const bool serve = r.lists.Serves(position), place = r.lists.slot >= 0 || !list_slots_.empty();
  if (kind == GuessKind::kAll) return if_so(options_.draft_weights && !serve);
  if (!serve && place && r.lists.Due(position, options_.list_pages)) return MayGuessBy::kAfterRow;
  return if_so(serve);
}

// most: drafts that the answer may have in this step. Its row of the step becomes the next guess, or the first of those
// that check what was guessed; or it stays as it is.
void Scheduler::PlanGuess(Request& request, int most, Riding* riding) {
  const int64_t length = request.sequence->length;
  const auto count = static_cast<int>(request.guesses.size());
  if (count == 0) {
    SelfDrafts::Round round;
    if (MayGuess(request)) {
      const auto can = [&](GuessKind kind) { return CanGuess(request, kind, length); };
      const MayGuessByKind may = {can(GuessKind::kLists), can(GuessKind::kEnds), can(GuessKind::kAll)};
      round = request.self.Choose(most, may, step_costs_, guess_costs_);
    }
    request.guesses_wanted = round.tokens;
    request.guess_kind = round.kind;
  }
  const int wanted = std::min(request.guesses_wanted, most);
  if (count < wanted && CanGuess(request, request.guess_kind, length + count) == MayGuessBy::kNow) {
    request.guessing = true;
    return;
  }
  CheckGuesses(request, most, riding);
}

// What was guessed becomes drafts of the step, as many as it has room for.
void Scheduler::CheckGuesses(Request& request, int most, Riding* riding) {
  const auto checked = std::min(static_cast<int>(request.guesses.size()), most);
  if (checked == 0) request.guesses_wanted = 0;  // drafts that it has are the text's
  if (checked > 0) request.drafts.assign(request.guesses.begin(), request.guesses.begin() + checked);
  request.guesses.clear();
  riding->Add(request.sequence->length + 1, checked);
  riding->samples += checked;
}

// A copy of the weights is read in place of the weights only by a step in which every row guesses. So answers guess
// together, and where one of them cannot, none does: in its step the weights are read anyway. Without a copy likewise
// where the step reads what guesses would leave out.
void Scheduler::GuessTogether(int most_rows, Riding* riding) {
  const auto guesses = [](const auto& rider) { return rider.first->guessing; };
  const std::vector<std::pair<Request*, int>>& riders = riding->requests;
  if (std::none_of(riders.begin(), riders.end(), guesses)) return;
  const bool all =
      riding->rebuilds.empty() && riding->refeeds.empty() && std::all_of(riders.begin(), riders.end(), guesses);
  if (options_.draft_weights ? all : GuessesReadLess(*riding)) return;
  for (const auto& [request, rows] : riders) {
    if (!std::exchange(request->guessing, false)) continue;
    if (all) request->self.LeftNothingOut(request->guess_kind);  // nor will it, as long as these are all that write
    CheckGuesses(*request, most_rows - riding->rows, riding);
  }
}

// Its text, as far as it is known here: of an answer beside others, what their common question was may be missing.
GuessAsked Scheduler::AskedOf(const Request& r) const {
  GuessAsked asked;
  asked.answer = r.id;
  const std::vector<int32_t>& session = r.session->sequence.tokens;
  const int64_t before = r.sequence->length - static_cast<int64_t>(r.fed);
  asked.before = std::span(session).first(std::clamp<int64_t>(before, 0, std::ssize(session)));
  asked.own = r.tokens;
  asked.draw = {r.params.temperature, r.params.top_p, r.params.seed, r.sequence->length + 1};
  return asked;
}

// Answers for which the text has proposed nothing get what another model guesses, where that is expected to pay.
void Scheduler::AskModel(int most_rows, Riding* riding) {
  std::vector<Request*> asking;
  for (const auto& [request, rows] : riding->requests) {
    if (MayDraft(*request) && request->drafts.empty() && request->self.on()) asking.push_back(request);
  }
  if (asking.empty()) return;
  const int room = (most_rows - riding->rows) / static_cast<int>(asking.size());
  std::vector<GuessAsked> asked;
  bool any = false;
  for (Request* request : asking) {
    const int64_t answer = request->params.max_new_tokens - request->result.new_tokens - 1;
    asked.push_back(AskedOf(*request));
    if (options_.measured) {
      const double cost = guess_costs_[0].ratio() * options_.guess_read_cost;
      asked.back().read = static_cast<int64_t>(kReadShare * static_cast<double>(std::min(answer, kForetold)) / cost);
    }
    asked.back().wanted = request->self.Choose(MostDrafts(*request, room), step_costs_, guess_costs_).tokens;
    any |= asked.back().wanted > 0;
  }
  if (!any) return;
  const Clock::time_point start = Clock::now();
  ModelGuessed guessed = options_.model_guesses(asked);
  const double seconds = SecondsSince(start);
  stats_.busy_seconds += seconds;
  stats_.guess_steps += guessed.steps;
  if (options_.measured && !guessed.read && guessed.steps > 0)
    guess_costs_[0].Measured(seconds / guessed.steps, step_costs_.one());
  for (size_t i = 0; i < asking.size(); ++i) {
    Request& request = *asking[i];
    request.drafts = std::move(guessed.tokens[i]);
    const auto count = static_cast<int>(request.drafts.size());
    request.guesses_wanted = count;
    // Not because it is reading: it has nothing to say of this text, and nothing would be learnt of it.
    if (count == 0 && asked[i].wanted > 0 && !guessed.read) request.self.Rest();
    request.result.guess_steps += count;
    riding->Add(request.sequence->length + 1, count);
    riding->samples += count;
  }
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
  part.guess_kind = request.guess_kind;
  parts_.push_back(part);
}

// kind: what the row saw, which may be more than was planned (PlanLists).
void Scheduler::OnGuessed(Request& request, GuessKind kind, int32_t token) {
  if (kind != request.guess_kind) request.self.LeftNothingOut(std::exchange(request.guess_kind, kind));
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
