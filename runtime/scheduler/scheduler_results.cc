// What a step that ran means for the requests and sessions whose rows it had.
#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "runtime/model/sampler.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

absl::Status NoNumberAfter(int64_t tokens) {
  return absl::InternalError(
      absl::StrFormat("the model's output after %d tokens is no number (NaN or infinity): its weights are damaged, or "
                      "too coarse a format (--weights, --kv) overflows",
                      tokens));
}

}  // namespace

void Scheduler::CountStep(double seconds) {
  ++stats_.steps;
  stats_.busy_seconds += seconds;
  stats_.last_step_seconds = seconds;
  stats_.last_step_prefill = chunk_.rows > 0;
  stats_.last_step_chunk = chunk_.rows;
  stats_.last_step_batch = static_cast<int>(parts_.size());
  stats_.last_step_answers =
      static_cast<int>(std::count_if(parts_.begin(), parts_.end(), [](const Part& p) { return p.draws; }));
  stats_.last_step_rows = PredictedRows(riders_);
  stats_.max_gap = options_.max_gap;
  if (parts_.empty()) return;  // of cache updates alone
  if (chunk_.rows > 0) return CountChunk(seconds);
  if (!options_.measured) return;
  const auto guesses = std::count_if(parts_.begin(), parts_.end(), [](const Part& p) { return p.guesses; });
  if (guesses > 0) {
    const GuessKind kind = parts_[0].guess_kind;
    const bool alike =
        std::all_of(parts_.begin(), parts_.end(), [&](const Part& p) { return p.guesses && p.guess_kind == kind; });
    if (alike) guess_costs_[static_cast<int>(kind)].Measured(seconds, step_costs_.one());
    return;
  }
  const auto follow = [](double* value, double now) { *value += (*value == 0 ? 1 : 0.1) * (now - *value); };
  follow(&rows_seconds_, seconds);
  follow(&rows_base_, std::max(0.0, seconds - chunk_time_.Predict(0, 0, riders_)));
  const bool answers_alone = stats_.last_step_answers == stats_.last_step_batch;
  if (options_.drafts == 0 || !answers_alone) return;
  const auto rows = static_cast<int>(riders_.rows);
  const bool makes_lists = std::any_of(parts_.begin(), parts_.end(), [](const Part& p) {
    return p.list_use == ListUse::kChoose || p.list_use == ListUse::kChooseAgain;
  });
  if (!makes_lists) return step_costs_.Measured(rows, seconds);
  guess_costs_[static_cast<int>(GuessKind::kLists)].MadeLists(seconds, step_costs_.one() * step_costs_.Of(rows),
                                                              step_costs_.one());
}

void Scheduler::CountChunk(double seconds) {
  if (options_.measured) chunk_time_.Measured(chunk_.rows, chunk_.history, seconds, chunk_.riders);
  for (RequestId id : chunk_.waiting) {
    const auto found = requests_.find(id);
    if (found == requests_.end()) continue;
    found->second.chunk_share += seconds / static_cast<double>(chunk_.waiting.size());
    if (id != chunk_.request) continue;
    found->second.chunk_seconds += seconds;
    callers_[found->second.whose.caller].chunk_seconds += seconds;
  }
}

// True: all of its rings.
bool Scheduler::OnRebuilt(Sequence& rebuilt, int rows) {
  rebuilt.rings_at += rows;
  if (rebuilt.rings_at < rebuilt.length) return false;
  rebuilt.ring_begin = 0;
  may_start_ = true;
  return true;
}

void Scheduler::OnFed(Request& request, int rows) {
  Sequence& sequence = *request.sequence;
  const auto fed = request.tokens.begin() + static_cast<int64_t>(request.fed);
  sequence.tokens.insert(sequence.tokens.end(), fed, fed + rows);
  request.fed += rows;
  sequence.length += rows;
  sequence.rings_at = sequence.length;
  if (ExtendsSession(request)) request.session->promised -= rows;
  may_start_ |= WaitsForFollowers(request) || sequence.length == request.stop_at;
  (request.drawing ? stats_.decode_tokens : stats_.prefill_tokens) += rows;
  if (request.drawing || request.closing) return;
  request.result.prompt_tokens = static_cast<int64_t>(request.fed) - request.result.cached.tokens;
  if (request.leaves_copy && HasRead(request)) LeaveCopy(request);
  if (request.events.on_progress) request.events.on_progress(request.fed, request.tokens.size());
}

// Of a question's prompt, to all whose question it is; each gets each once, also where a question is read again. Ends
// the request where a row has none; those whose question it is as well then read it themselves, and end likewise.
void Scheduler::ReportScores(Request& request, const StepResult& result, size_t first, const Part& part) {
  if (!request.ask || request.drawing || !Scored(request) || result.scores.empty()) return;
  const size_t count = part.samples - (part.draws ? 1 : 0);
  const auto begin = result.tokens.begin() + static_cast<int64_t>(first), end = begin + static_cast<int64_t>(count);
  if (const auto broken = std::find(begin, end, kNoToken); broken != end) {
    return Finish(request, NoNumberAfter(request.sequence->length - part.rows + (broken - begin) + 1), Finish::kStop);
  }
  const auto report = [&](Request& to) {
    for (size_t i = 0; i < count; ++i) {
      const size_t token = request.fed - part.rows + i + 1;
      if (token <= to.scored) continue;
      to.scored = token;
      if (to.events.on_prompt_score) to.events.on_prompt_score(result.scores[first + i]);
    }
  };
  report(request);
  for (RequestId follower : request.followers) report(requests_.at(follower));
}

// Those of an append's rows, or of the row that a question's next token is drawn from.
void Scheduler::ReportLogits(const Request& request, const StepResult& result, size_t first, size_t count) {
  if (!request.events.on_logits || result.logits.empty()) return;
  const auto vocab = static_cast<int64_t>(result.logits.size() / result.tokens.size());
  for (size_t row = first; row < first + count; ++row) {
    const auto begin = result.logits.begin() + static_cast<int64_t>(row) * vocab;
    request.events.on_logits({begin, begin + vocab});
  }
}

// sample: of the result's.
void Scheduler::OnSampled(Request& request, const StepResult& result, size_t sample) {
  const int32_t token = result.tokens[sample];
  if (token == kNoneAllowed) {
    return Finish(request,
                  absl::InvalidArgumentError("what the request allows, bans and biases leaves no token to draw"),
                  Finish::kStop);
  }
  if (token == kNoToken) return Finish(request, NoNumberAfter(request.sequence->length), Finish::kStop);
  if (!request.drawing) {
    request.drawing = true;
    request.prompt_done = Clock::now();
    request.result.prefill_seconds = SecondsBetween(request.started, request.prompt_done);
  }
  const std::vector<int32_t>& ends = request.params.end_tokens;
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
    return Finish(request, absl::OkStatus(), Finish::kEos);
  }
  const std::vector<int32_t>& stops = request.params.rules.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    return Finish(request, absl::OkStatus(), Finish::kStop);
  }
  ++request.result.new_tokens;
  if (CountsTokens(request.params.rules)) ++request.counts[token];
  // A step has scores for all its samples where one of them asks.
  const bool scored = !result.scores.empty() && request.params.rules.scores >= 0;
  if (scored && request.events.on_score) request.events.on_score(result.scores[sample]);
  if (request.params.mass && request.events.on_mass) {
    const auto found = std::lower_bound(mass_samples_.begin(), mass_samples_.end(), static_cast<int32_t>(sample));
    const auto at = static_cast<size_t>(found - mass_samples_.begin());
    if (at < result.masses.size()) request.events.on_mass(result.masses[at]);
  }
  const bool go_on = !request.events.on_token || request.events.on_token(token);
  request.tokens.push_back(token);
  request.self.Drawn(1);
  if (go_on && request.result.new_tokens < request.params.max_new_tokens) return;
  request.result.finish = go_on ? Finish::kLength : Finish::kStop;
  if (request.params.keep) {
    request.closing = true;  // one more step feeds the last token, so that the session has it
  } else {
    Finish(request, absl::OkStatus(), request.result.finish);
  }
}

void Scheduler::Complete(const StepResult& result, double seconds) {
  CountStep(seconds);
  size_t sample = 0, lists = 0;
  const std::vector<Part> parts = std::exchange(parts_, {});
  for (const Part& part : parts) {
    const size_t first = std::exchange(sample, sample + part.samples);
    const bool chose = part.list_use == ListUse::kChoose || part.list_use == ListUse::kChooseAgain;
    const size_t chosen = std::exchange(lists, lists + (chose ? 1 : 0));
    if (part.rebuilt != 0) {
      if (const auto session = sessions_.find(part.rebuilt); session != sessions_.end()) {
        OnRebuilt(session->second.sequence, part.rows);
      }
      continue;
    }
    auto found = requests_.find(part.request);  // none: it was cancelled meanwhile
    if (found == requests_.end()) continue;
    Request& request = found->second;
    if (part.refeeds) {
      if (OnRebuilt(*request.sequence, part.rows)) LeaveCopy(request);  // where two texts part others will
      continue;
    }
    if (part.guesses) {
      OnGuessed(request, part.guess_kind, result.tokens[first]);
      continue;
    }
    if (part.list_use != ListUse::kNone) OnListed(request, part, result.lists, chosen);
    request.result.draw_steps += part.draws;
    stats_.draw_steps += part.draws;
    if (!request.drafts.empty()) {
      OnDrafted(request, result, first);
      continue;
    }
    OnFed(request, part.rows);
    if (part.request == chunk_.request) OnAudited(request, result.audits);
    const size_t drawn = first + part.samples - 1;
    if (!request.ask && part.samples > 0) ReportLogits(request, result, first, part.samples);
    if (part.draws && request.params.want_logits) ReportLogits(request, result, drawn, 1);
    ReportScores(request, result, first, part);
    if (requests_.count(part.request) == 0) continue;  // it has ended
    const bool draws = request.ask && request.params.max_new_tokens > 0;
    if (request.closing || (!draws && Remaining(request) == 0)) {
      if (!draws) request.result.prefill_seconds = SecondsBetween(request.started, Clock::now());
      Finish(request, absl::OkStatus(), request.result.finish);
    } else if (part.draws) {
      OnSampled(request, result, drawn);
    }
  }
}

}  // namespace duo
