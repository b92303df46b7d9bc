// Several tokens of an answer in one step. Its rows are then the last drawn token and drafts of those that follow
// (runtime/drafts); the draw at each row is the token that the answer has there, whatever was drafted, because a draw
// depends on seed, position and logits alone. So as many drafts are right as equal the draws before them, and the first
// draw that differs is the answer's, too. What is behind it is taken back: pages by their length, ring slots because
// they overwrote nothing that is still seen (kernels/base/ring.h).
//
// Drafts ride only in steps of up to kExactRows rows without a chunk, on GPUs in shorter ones of one answer alone
// (SchedulerOptions::checks_alone): there a row has the bits that it has alone (kernels/alike_rows.h), and the answer
// is the same to the last token as without them.
#include <algorithm>
#include <utility>

#include "kernels/alike_rows.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

constexpr int64_t kIndexedAtOnce = 16384;  // tokens of a session, each step: well below a millisecond

}  // namespace

// Penalties and masks of later rows would depend on drafts: answers with them are drawn token by token.
bool Scheduler::MayDraft(const Request& r) {
  return r.drawing && !r.closing && !r.events.allow && !CountsTokens(r.params.rules) &&
         r.result.new_tokens + 1 < r.params.max_new_tokens;
}

// riding: of a step; what its rows leave room for is given to those of its answers where it is expected to pay.
void Scheduler::PlanDrafts(bool beside_chunk, Riding* riding) {
  if (options_.drafts == 0) return;
  for (const auto& [request, rows] : riding->requests) request->guessing = false;
  for (auto& [id, request] : running_) {
    Session& session = *request->session;
    session.index.Extend(session.sequence.tokens, kIndexedAtOnce);
    if (request->ask) request->drafter.Read(request->tokens);
  }
  const bool alone = options_.checks_alone;
  const int most_rows = std::min({alone ? kAlikeRows : kExactRows, options_.max_rows, options_.max_samples});
  if (beside_chunk || riding->rows >= (alone ? 2 : most_rows)) {
    for (const auto& [request, rows] : riding->requests) {  // whose next tokens are drawn now
      request->guesses.clear();
      request->guesses_wanted = 0;
    }
    return;
  }
  int left = 0;
  PlannedStep step;
  step.rows = riding->rows;
  for (const auto& [request, rows] : riding->requests) {
    left += MayDraft(*request) ? 1 : 0;
    step.tokens += request->drawing ? 1 : 0;
  }
  for (const auto& [request, rows] : riding->requests) {
    if (!MayDraft(*request)) continue;
    const int most = MostDrafts(*request, (most_rows - step.rows) / left--);
    if (!request->guesses.empty()) {
      PlanGuess(*request, most, riding);
      step.rows = riding->rows;
      continue;
    }
    const QuotableText document{request->session->sequence.tokens, &request->session->index};
    const std::span<const int32_t> drafts =
        request->drafter.Propose(request->tokens, {&document, 1}, most, step_costs_, &draft_odds_, &step);
    request->drafts.assign(drafts.begin(), drafts.end());
    const auto count = static_cast<int>(drafts.size());
    riding->Add(request->sequence->length + 1, count);
    riding->samples += count;
    if (count == 0) PlanGuess(*request, most, riding);
  }
  if (options_.guesses) GuessTogether(most_rows, riding);
  if (options_.model_guesses) AskModel(most_rows, riding);
}

int Scheduler::MostDrafts(const Request& r, int room) const {
  const int64_t answer = r.params.max_new_tokens - r.result.new_tokens - 1;
  const int64_t in_page = kPageTokens - 1 - r.sequence->length % kPageTokens;
  return static_cast<int>(
      std::min<int64_t>({answer, room, options_.drafts, options_.checks_alone ? in_page : options_.drafts}));
}

void Scheduler::AddDraftRows(Request& request, StepPlan* plan) {
  Sequence& sequence = *request.sequence;
  std::vector<int32_t> tokens = {request.tokens.back()};
  tokens.insert(tokens.end(), request.drafts.begin(), request.drafts.end());
  const auto rows = static_cast<int>(tokens.size());
  const auto first_row = static_cast<int>(plan->tokens.size());
  pool_.Grow(&sequence, sequence.length + rows, plan);
  AddSpan(sequence, sequence.length, tokens.data(), rows, false, plan);
  for (int row = 0; row < rows; ++row) AddDraw(request, first_row + row, row + 1, {}, plan);
  parts_.push_back({request.id, 0, false, rows, rows, true});
}

// first: of the request's samples in the result.
void Scheduler::OnDrafted(Request& request, const StepResult& result, size_t first) {
  const RequestId id = request.id;
  const std::vector<int32_t> drafts = std::exchange(request.drafts, {});
  const auto count = static_cast<int64_t>(drafts.size());
  request.result.drafted_tokens += count;
  stats_.drafted_tokens += count;
  const bool guessed = std::exchange(request.guesses_wanted, 0) > 0;
  const auto equal = std::mismatch(drafts.begin(), drafts.end(), result.tokens.begin() + static_cast<int64_t>(first));
  if (guessed)
    request.self.Learn(request.guess_kind, static_cast<int>(count), static_cast<int>(equal.first - drafts.begin()));
  for (size_t row = 0; row <= drafts.size(); ++row) {
    const int32_t token = result.tokens[first + row];
    const bool right = row < drafts.size() && token == drafts[row];
    if (right) {
      ++request.result.accepted_tokens;
      ++stats_.accepted_tokens;
    }
    OnFed(request, 1);
    if (request.params.want_logits) ReportLogits(request, result, first + row, 1);
    OnSampled(request, result, first + row);
    if (requests_.count(id) == 0) return;
    if (!right || request.closing) break;
  }
  pool_.Trim(request.sequence);
}

}  // namespace duo
