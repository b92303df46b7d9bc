// From requests to steps: who runs next, how many rows of it, and what a step that ran means for them.
#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/base/seconds.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

// Of max_wait, and of max_gap, that a chunk is planned for: on a busy machine some take longer, and a gap has the time
// between two steps, too.
constexpr double kWaitMargin = 0.75, kGapMargin = 0.6;
// Of a step that answers ride in, the least part that is the chunk's, and of an equal share of the chunks' time, the
// least part that any text gets.
constexpr double kLeastOfStep = 0.2, kLeastOfShare = 0.25;

}  // namespace

int64_t Scheduler::ChunkRows(const Request& request, const Riding& riding) const {
  int64_t rows = MostRows(request);
  if (Scored(request)) rows = std::min<int64_t>(rows, options_.max_samples - riding.samples);
  const int64_t history = request.sequence->length;
  // A step cannot be interrupted, so while other sessions are open, whose questions may come at any moment, a chunk is
  // short. What waits for this very append, behind it on its session, gains nothing from shorter chunks.
  const bool somebody = sessions_.size() > 1 || running_.size() > 1;
  if (somebody) rows = chunk_time_.RowsWithin(kWaitMargin * options_.max_wait, rows, history);
  if (!riding.urgent) return rows;
  const double least = PredictedRows(riding.riders) / (1 - kLeastOfStep);
  return chunk_time_.RowsBeside(riding.riders, std::max(kGapMargin * options_.max_gap, least), rows, history);
}

double Scheduler::PredictedRead(const Request& request) const {
  return chunk_time_.PredictText(Remaining(request) + request.more_tokens, request.sequence->length);
}

// Whose text is the first that they have to be read was not behind the others before.
void Scheduler::WelcomeReader(const Request& request, const std::vector<Request*>& chunks) {
  std::optional<double> least;
  for (const Request* other : chunks) {
    if (!other->had_chunk || other == &request) continue;
    const double seconds = callers_[other->whose.caller].chunk_seconds;
    if (other->whose.caller == request.whose.caller) return;
    least = std::min(least.value_or(seconds), seconds);
  }
  double& own = callers_[request.whose.caller].chunk_seconds;
  own = std::max(own, least.value_or(0));
}

// Long questions and long appends take turns. Of a kind those of the caller come first whose texts had the least time,
// and of these the lowest priority and the shortest; but one that has had too little of the time before them all.
Scheduler::Request* Scheduler::ChooseChunk(const std::vector<Request*>& chunks) {
  const auto rank = [&](const Request& r) {
    const double lacking = std::max(0.0, kLeastOfShare * r.chunk_share - r.chunk_seconds);
    return std::tuple(-lacking, callers_[r.whose.caller].chunk_seconds, r.whose.priority, PredictedRead(r));
  };
  for (const bool ask : {!last_chunk_asked_, last_chunk_asked_}) {
    Request* chosen = nullptr;
    for (Request* request : chunks) {
      if (request->ask == ask && (chosen == nullptr || rank(*request) < rank(*chosen))) chosen = request;
    }
    if (chosen == nullptr) continue;
    last_chunk_asked_ = ask;
    return chosen;
  }
  return nullptr;
}

// Answers being written come before appends and rebuilding, which can take what room is left. Where there are not
// places for all, all take turns: first come those behind the last one that had a place.
void Scheduler::TakeTurns(std::vector<Request*>* rows, int places) {
  if (static_cast<int>(rows->size()) <= places) {
    std::stable_partition(rows->begin(), rows->end(), [](const Request* r) { return r->drawing; });
    return;
  }
  const auto first = std::find_if(rows->begin(), rows->end(), [&](const Request* r) { return r->id > last_row_; });
  std::rotate(rows->begin(), first, rows->end());
  last_row_ = (*rows)[places - 1]->id;
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
}

// A draw from a row of the plan, behind `before` more tokens than the sequence has.
// guess: nobody is told what else there is to say of it.
void Scheduler::AddDraw(const Request& request, int row, int before, const std::vector<uint32_t>& mask, StepPlan* plan,
                        bool guess) {
  const SamplingRules& rules = request.params.rules;
  plan->sample_rows.push_back(row);
  plan->samples.push_back(
      {request.params.temperature, request.params.top_p, request.params.seed, request.sequence->length + before});
  std::vector<int32_t> banned;
  const int64_t drawn = request.result.new_tokens + (request.drawing ? before - 1 : 0);
  if (drawn < rules.min_new_tokens) {
    banned = request.params.end_tokens;
    banned.insert(banned.end(), rules.stop_tokens.begin(), rules.stop_tokens.end());
  }
  AddRule(rules, request.counts, banned, mask, plan);
  if (guess) return;
  if (request.params.want_logits) plan->want_logits = 1;
  if (!request.params.mass) return;
  plan->mass_samples.push_back(static_cast<int32_t>(plan->samples.size()) - 1);
  const auto& ranges = request.params.mass_ranges;
  if (ranges.empty()) return;
  for (const TokenRange& tokens : ranges[std::min<size_t>(drawn, ranges.size() - 1)]) {
    plan->mass_ranges.push_back({static_cast<int32_t>(plan->mass_samples.size()) - 1, tokens});
  }
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
    AddDraw(request, first_row + rows - 1, rows, mask, plan);
  }
  return static_cast<int>(plan->sample_rows.size() - before);
}

void Scheduler::AddRows(Request& request, int rows, StepPlan* plan) {
  if (!request.drafts.empty()) return AddDraftRows(request, plan);
  if (request.guessing) return AddGuessRow(request, plan);
  Sequence& sequence = *request.sequence;
  const bool draws = request.ask && !request.closing && rows == Remaining(request) && request.params.max_new_tokens > 0;
  std::vector<uint32_t> mask;
  if (draws && request.events.allow) {
    if (absl::Status s = request.events.allow(&mask); !s.ok()) return Finish(request, std::move(s), Finish::kStop);
  }
  BeginSteps(request);
  pool_.Grow(&sequence, sequence.length + rows, plan);
  AddSpan(sequence, sequence.length, request.tokens.data() + request.fed, rows, false, plan);
  parts_.push_back({request.id, 0, false, rows, AddSamples(request, rows, draws, mask, plan), draws});
}

void Scheduler::BeginSteps(Request& request) {
  if (std::exchange(request.begun, true)) return;
  request.started = Clock::now();
  request.result.queue_seconds = SecondsBetween(request.submitted, request.started);
}

void Scheduler::AddRebuild(const Sequence& sequence, Part part, StepPlan* plan) {
  AddSpan(sequence, sequence.rings_at, sequence.tokens.data() + sequence.rings_at, part.rows, true, plan);
  parts_.push_back(part);
}

bool Scheduler::TakeCacheUpdates(StepPlan* plan) {
  *plan = std::exchange(cache_updates_, StepPlan());
  plan->kind = StepKind::kCacheUpdates;
  return !plan->table_writes.empty() || !plan->page_copies.empty() || !plan->ring_copies.empty();
}

void Scheduler::Riding::Add(int64_t first, int count) {
  rows += count;
  riders.rows += count;
  riders.tokens += count * (first + count);
}

// refeeds: those whose rings are rebuilt first. chunk: what they ride with, which takes a place and samples of its own;
// null: nothing.
Scheduler::Riding Scheduler::PickRiding(std::vector<Request*> rows, const std::vector<Request*>& refeeds,
                                        const Request* chunk) {
  Riding riding;
  int places = options_.max_batch, samples = options_.max_samples;
  if (chunk != nullptr) {
    places = std::max(1, places - 1);
    samples = Scored(*chunk) ? samples / 2 : std::max(1, samples - 1);
  }
  TakeTurns(&rows, places);
  for (Request* request : rows) {
    const int room = options_.max_rows - riding.rows, left = samples - riding.samples;
    if (places == 0 || room == 0 || left == 0) break;
    const bool scored = Scored(*request);
    const int count =
        static_cast<int>(std::min<int64_t>({MostRows(*request), kMaxDecodeRows, room, scored ? left : room}));
    riding.Add(request->sequence->length, count);
    riding.requests.emplace_back(request, count);
    riding.samples += scored ? count : request->ask;
    riding.urgent |= request->ask;
    --places;
  }
  // Somebody waits for these rings. Gives the rows; 0: there is no place.
  const auto rebuild = [&](const Sequence& s) {
    const int room = options_.max_rows - riding.rows;
    if (places == 0 || room == 0) return 0;
    const int count = static_cast<int>(std::min<int64_t>({s.length - s.rings_at, kMaxDecodeRows, room}));
    riding.Add(s.rings_at, count);
    riding.urgent = true;
    --places;
    return count;
  };
  for (auto& [id, session] : sessions_) {
    if (!NeedsRebuild(session.sequence) || session.queue.empty()) continue;
    if (const int count = rebuild(session.sequence); count > 0) riding.rebuilds.emplace_back(&session, count);
  }
  for (Request* request : refeeds) {
    if (const int count = rebuild(*request->sequence); count > 0) riding.refeeds.emplace_back(request, count);
  }
  return riding;
}

void Scheduler::AddChunk(Request& request, const Riding& riding, const std::vector<Request*>& chunks, StepPlan* plan) {
  const int64_t rows = AlignedRows(request, ChunkRows(request, riding)), history = request.sequence->length;
  Chunk planned = {rows, history, riding.riders, request.id, {}, {}};
  for (const Request* other : chunks) {
    if (other->ask == request.ask) planned.waiting.push_back(other->id);
  }
  if (!std::exchange(request.had_chunk, true)) WelcomeReader(request, chunks);
  AddRows(request, static_cast<int>(rows), plan);
  if (plan->spans.empty()) return;  // it has ended instead
  chunk_ = std::move(planned);
  if (rows <= kMaxDecodeRows) return;
  plan->kind = StepKind::kPrefill;
  PlanSparse(request, rows, plan);
}

bool Scheduler::Next(StepPlan* plan) {
  *plan = StepPlan();
  parts_.clear();
  chunk_ = Chunk();
  StartWhatCan();
  LetReadersGo();
  std::vector<Request*> rows, chunks, refeeds;
  for (auto& [id, request] : running_) {
    if (Paused(*request)) continue;
    (NeedsRebuild(*request->sequence) ? refeeds : IsLong(*request) ? chunks : rows).push_back(request);
  }
  const bool updates = TakeCacheUpdates(plan);
  Request* chunk = ChooseChunk(chunks);
  Riding riding = PickRiding(std::move(rows), refeeds, chunk);
  PlanDrafts(chunk != nullptr, &riding);
  riders_ = riding.riders;
  if (chunk == nullptr && riding.rows == 0) return updates;
  plan->kind = StepKind::kRows;
  if (chunk != nullptr) AddChunk(*chunk, riding, chunks, plan);
  for (const auto& [request, count] : riding.requests) AddRows(*request, count, plan);
  for (const auto& [session, count] : riding.rebuilds)
    AddRebuild(session->sequence, {0, session->id, false, count}, plan);
  for (const auto& [request, count] : riding.refeeds) {
    BeginSteps(*request);
    AddRebuild(*request->sequence, {request->id, 0, true, count}, plan);
  }
  mass_samples_ = plan->mass_samples;
  PlanLists(plan);
  const auto guess = [](const Part& part) { return part.guesses; };
  plan->draft_weights = options_.draft_weights && std::all_of(parts_.begin(), parts_.end(), guess) ? 1 : 0;
  return true;
}

}  // namespace duo
