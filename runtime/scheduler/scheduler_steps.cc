// From requests to steps: who runs next, how many rows of it, and what a step that ran means for them.
#include <algorithm>
#include <utility>

#include "kernels/base/seconds.h"
#include "runtime/model/worker.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

constexpr double kMargin = 0.75;  // of max_wait that a chunk is planned for: on a busy machine some take longer

}  // namespace

int Scheduler::ChunkRows(const Request& request) const {
  const int64_t rows = MostRows(request);
  // A step cannot be interrupted, so while other sessions are open, whose questions may come at any moment, a chunk is
  // short. What waits for this very append, behind it on its session, gains nothing from shorter chunks.
  bool somebody = sessions_.size() > 1;
  for (const auto& [id, other] : requests_) somebody |= id != request.id && other.sequence != nullptr;
  if (!somebody) return static_cast<int>(rows);
  return static_cast<int>(chunk_time_.RowsWithin(kMargin * options_.max_wait, rows, request.sequence->length));
}

// Long questions and long appends take turns, and so do those of each kind, in order of their ids.
Scheduler::Request* Scheduler::ChooseChunk(const std::vector<Request*>& chunks) {
  for (const bool ask : {!last_chunk_asked_, last_chunk_asked_}) {
    Request* chosen = nullptr;
    for (Request* request : chunks) {
      if (request->ask != ask) continue;
      if (chosen == nullptr) chosen = request;
      if (request->id <= last_chunk_[ask]) continue;
      chosen = request;
      break;
    }
    if (chosen == nullptr) continue;
    last_chunk_asked_ = ask;
    last_chunk_[ask] = chosen->id;
    return chosen;
  }
  return nullptr;
}

void Scheduler::AddSpan(const Sequence& sequence, int64_t first, const int32_t* tokens, int rows, bool refeed,
                        StepPlan* plan) {
  SeqSpan span;
  span.first_row = static_cast<int32_t>(plan->tokens.size());
  span.num_rows = rows;
  span.history = static_cast<int32_t>(first);
  span.table = span.split_table = sequence.table;
  span.ring = sequence.ring;
  span.ring_begin = static_cast<int32_t>(sequence.ring_begin);
  span.keep_pages = refeed ? 1 : 0;
  const auto seq = static_cast<int32_t>(plan->spans.size());
  plan->spans.push_back(span);
  for (int i = 0; i < rows; ++i) {
    plan->tokens.push_back(tokens[i]);
    plan->positions.push_back(static_cast<int32_t>(first + i));
    plan->row_seq.push_back(seq);
  }
  plan->max_tokens = std::max(plan->max_tokens, first + rows);
}

// The rows whose logits are looked at: of the last `rows` rows of the plan, all that are scored, and the last one for a
// draw. Returns how many.
int Scheduler::AddSamples(Request& request, int rows, bool draws, const std::vector<uint32_t>& mask, StepPlan* plan) {
  const SamplingRules& rules = request.params.rules;
  const auto before = plan->sample_rows.size();
  const int32_t first_row = static_cast<int32_t>(plan->tokens.size()) - rows;
  if (Scored(request)) {
    if (!request.ask) plan->want_logits = 1;
    for (int row = 0; row < rows; ++row) {
      const size_t next = request.fed + row + 1;  // the token that the row foretells
      if (request.ask && next == request.tokens.size()) continue;
      plan->sample_rows.push_back(first_row + row);
      plan->samples.push_back({});
      if (!request.ask) continue;
      SampleRule rule;
      rule.sample = static_cast<int32_t>(plan->samples.size()) - 1;
      rule.scores = rules.prompt_scores;
      rule.target = request.tokens[next];
      plan->rules.push_back(rule);
    }
  }
  if (draws) {
    plan->sample_rows.push_back(first_row + rows - 1);
    plan->samples.push_back(
        {request.params.temperature, request.params.top_p, request.params.seed, request.sequence->length + rows});
    std::vector<int32_t> banned;
    if (request.result.new_tokens < rules.min_new_tokens) {
      banned = request.params.end_tokens;
      banned.insert(banned.end(), rules.stop_tokens.begin(), rules.stop_tokens.end());
    }
    AddRule(rules, request.counts, banned, mask, plan);
    if (request.params.want_logits) plan->want_logits = 1;
  }
  return static_cast<int>(plan->sample_rows.size() - before);
}

void Scheduler::AddRows(Request& request, int rows, StepPlan* plan) {
  Sequence& sequence = *request.sequence;
  const bool draws = request.ask && !request.closing && rows == Remaining(request) && request.params.max_new_tokens > 0;
  std::vector<uint32_t> mask;
  if (draws && request.events.allow) {
    if (absl::Status s = request.events.allow(&mask); !s.ok()) return Finish(request, std::move(s), Finish::kStop);
  }
  if (request.fed == 0) {
    request.started = Clock::now();
    request.result.queue_seconds = SecondsBetween(request.submitted, request.started);
  }
  pool_.Grow(&sequence, sequence.length + rows, plan);
  AddSpan(sequence, sequence.length, request.tokens.data() + request.fed, rows, false, plan);
  parts_.push_back({request.id, 0, rows, AddSamples(request, rows, draws, mask, plan), draws});
}

void Scheduler::AddRebuild(Session& session, int rows, StepPlan* plan) {
  const Sequence& sequence = session.sequence;
  AddSpan(sequence, sequence.rings_at, sequence.tokens.data() + sequence.rings_at, rows, true, plan);
  parts_.push_back({0, session.id, rows, 0, false});
}

bool Scheduler::TakeCacheUpdates(StepPlan* plan) {
  *plan = std::exchange(cache_updates_, StepPlan());
  plan->kind = StepKind::kCacheUpdates;
  return !plan->table_writes.empty() || !plan->page_copies.empty() || !plan->ring_copies.empty();
}

bool Scheduler::Next(StepPlan* plan) {
  *plan = StepPlan();
  parts_.clear();
  StartWhatCan();
  LetReadersGo();
  std::vector<Request*> rows, chunks;
  for (auto& [id, request] : requests_) {
    if (request.sequence != nullptr && !Paused(request)) (IsLong(request) ? chunks : rows).push_back(&request);
  }
  const bool updates = TakeCacheUpdates(plan);
  std::vector<Session*> rebuilds;  // somebody waits for their rings
  for (auto& [id, session] : sessions_) {
    if (NeedsRebuild(session.sequence) && !session.queue.empty()) rebuilds.push_back(&session);
  }
  if (rows.empty() && chunks.empty() && rebuilds.empty()) {
    return updates;
  }
  plan->kind = StepKind::kRows;

  // Rows first; then a chunk, if one waits; then rows again.
  if (!chunks.empty() && ((rows.empty() && rebuilds.empty()) || !planned_prefill_)) {
    Request* chosen = ChooseChunk(chunks);
    planned_prefill_ = true;
    planned_history_ = chosen->sequence->length;
    planned_rows_ = ChunkRows(*chosen);
    plan->kind = planned_rows_ > kMaxDecodeRows ? StepKind::kPrefill : StepKind::kRows;
    AddRows(*chosen, static_cast<int>(planned_rows_), plan);
    return true;
  }
  planned_prefill_ = false;
  // Answers being written come before appends and rebuilding, which can take what room is left.
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Request* a, const Request* b) { return a->drawing > b->drawing; });
  int room = options_.max_rows;
  for (Request* request : rows) {
    const int samples = options_.max_samples - static_cast<int>(plan->sample_rows.size());
    if (static_cast<int>(plan->spans.size()) == options_.max_batch || room == 0 || samples == 0) break;
    const int count = static_cast<int>(
        std::min<int64_t>({MostRows(*request), kMaxDecodeRows, room, Scored(*request) ? samples : room}));
    AddRows(*request, count, plan);
    room -= count;
  }
  for (Session* session : rebuilds) {
    if (static_cast<int>(plan->spans.size()) == options_.max_batch || room == 0) break;
    const Sequence& s = session->sequence;
    const int count = static_cast<int>(std::min<int64_t>({s.length - s.rings_at, kMaxDecodeRows, room}));
    AddRebuild(*session, count, plan);
    room -= count;
  }
  return true;
}

void Scheduler::CountStep(double seconds) {
  if (!planned_prefill_ && !parts_.empty()) rows_seconds_ += (rows_seconds_ == 0 ? 1 : 0.1) * (seconds - rows_seconds_);
  ++stats_.steps;
  stats_.busy_seconds += seconds;
  stats_.last_step_seconds = seconds;
  stats_.last_step_prefill = planned_prefill_ && !parts_.empty();
  if (planned_prefill_ && parts_.size() == 1) chunk_time_.Measured(planned_rows_, planned_history_, seconds);
}

void Scheduler::OnRebuilt(SessionId id, int rows) {
  auto session = sessions_.find(id);
  if (session == sessions_.end()) return;
  Sequence& rebuilt = session->second.sequence;
  rebuilt.rings_at += rows;
  if (rebuilt.rings_at == rebuilt.length) rebuilt.ring_begin = 0;
}

void Scheduler::OnFed(Request& request, int rows) {
  Sequence& sequence = *request.sequence;
  const auto fed = request.tokens.begin() + static_cast<int64_t>(request.fed);
  sequence.tokens.insert(sequence.tokens.end(), fed, fed + rows);
  request.fed += rows;
  sequence.length += rows;
  sequence.rings_at = sequence.length;
  if (ExtendsSession(request)) request.session->promised -= rows;
  (request.drawing ? stats_.decode_tokens : stats_.prefill_tokens) += rows;
  if (request.drawing || request.closing) return;
  request.result.prompt_tokens = static_cast<int64_t>(request.fed);
  if (request.events.on_progress) request.events.on_progress(request.fed, request.tokens.size());
}

// Of a question's prompt, to all whose question it is; each gets each once, also where a question is read again.
void Scheduler::ReportScores(Request& request, const StepResult& result, size_t first, const Part& part) {
  if (!request.ask || request.drawing || !Scored(request) || result.scores.empty()) return;
  const size_t count = part.samples - (part.draws ? 1 : 0);
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

void Scheduler::Complete(const StepResult& result, double seconds) {
  CountStep(seconds);
  size_t sample = 0;
  const std::vector<Part> parts = std::exchange(parts_, {});
  for (const Part& part : parts) {
    const size_t first = std::exchange(sample, sample + part.samples);
    if (part.rebuilt != 0) {
      OnRebuilt(part.rebuilt, part.rows);
      continue;
    }
    auto found = requests_.find(part.request);  // none: it was cancelled meanwhile
    if (found == requests_.end()) continue;
    Request& request = found->second;
    OnFed(request, part.rows);
    const size_t drawn = first + part.samples - 1;
    if (!request.ask && part.samples > 0) ReportLogits(request, result, first, part.samples);
    if (part.draws && request.params.want_logits) ReportLogits(request, result, drawn, 1);
    ReportScores(request, result, first, part);
    const bool draws = request.ask && request.params.max_new_tokens > 0;
    if (request.closing || (!draws && Remaining(request) == 0)) {
      if (!draws) request.result.prefill_seconds = SecondsBetween(request.started, Clock::now());
      Finish(request, absl::OkStatus(), request.result.finish);
    } else if (part.draws) {
      OnSampled(request, result.tokens[drawn], result.scores.empty() ? nullptr : &result.scores[drawn]);
    }
  }
}

}  // namespace duo
