#include "runtime/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "kernels/base/seconds.h"
#include "runtime/model/sampler.h"
#include "runtime/model/worker.h"
#include "runtime/scheduler/busy.h"

namespace duo {
namespace {

absl::Status NoSession(SessionId id) { return absl::NotFoundError(absl::StrCat("there is no session ", id)); }

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, const KvSizes& sizes, bool has_whole, bool has_split)
    : options_(options),
      pool_(sizes, has_whole, has_split),
      chunk_time_(options.flop_per_token, options.flop_per_token_pair, options.flop_rate) {}

Scheduler::~Scheduler() = default;

absl::Status Scheduler::RoomForSession() const {
  if (static_cast<int>(sessions_.size()) < options_.sessions) return absl::OkStatus();
  return Busy(absl::StrFormat("all %d sessions are open; close one", options_.sessions));
}

SessionId Scheduler::AddSession(int64_t max_tokens, Sequence sequence) {
  Session& session = sessions_[next_session_];
  session.id = next_session_++;
  session.max_tokens = max_tokens;
  session.sequence = std::move(sequence);
  return session.id;
}

absl::Status Scheduler::CheckLimit(int64_t max_tokens) const {
  if (max_tokens <= pool_.table_tokens()) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%d tokens were asked for, this server's sessions hold at most %d", max_tokens, pool_.table_tokens()));
}

absl::StatusOr<SessionId> Scheduler::CreateSession(int64_t max_tokens, std::optional<int64_t> reserved_tokens) {
  if (max_tokens < 1) return absl::InvalidArgumentError("a session needs max_tokens of at least 1");
  if (absl::Status s = CheckLimit(max_tokens); !s.ok()) return s;
  if (absl::Status s = RoomForSession(); !s.ok()) return s;
  const int64_t reserved = std::min(reserved_tokens.value_or(max_tokens), max_tokens);
  Sequence sequence;
  if (absl::Status s = pool_.Open(reserved, &sequence); !s.ok()) return s;
  const SessionId id = AddSession(max_tokens, std::move(sequence));
  sessions_[id].reserved = reserved;
  return id;
}

absl::StatusOr<SessionId> Scheduler::AdoptSession(int64_t max_tokens, std::vector<int32_t> tokens, bool rings_valid,
                                                  std::optional<int64_t> reserved_tokens) {
  const auto length = static_cast<int64_t>(tokens.size());
  const int64_t most = std::max(max_tokens, length);
  absl::StatusOr<SessionId> id = CreateSession(most, std::max(reserved_tokens.value_or(most), length));
  if (!id.ok()) return id;
  if (reserved_tokens.has_value()) sessions_[*id].reserved = std::min(*reserved_tokens, most);
  Sequence& sequence = sessions_[*id].sequence;
  sequence.length = static_cast<int64_t>(tokens.size());
  sequence.tokens = std::move(tokens);
  pool_.Grow(&sequence, sequence.length, &cache_updates_);
  sequence.rings_at = rings_valid ? sequence.length : std::max<int64_t>(0, sequence.length - options_.refeed);
  sequence.ring_begin = rings_valid ? 0 : sequence.rings_at;
  return id;
}

absl::Status Scheduler::CloseSession(SessionId id) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  const std::deque<RequestId> queue = found->second.queue;
  for (RequestId request : queue) {
    Finish(requests_.at(request), absl::CancelledError("the session was closed"), Finish::kStop);
  }
  pool_.Close(&found->second.sequence);
  sessions_.erase(found);
  return absl::OkStatus();
}

absl::StatusOr<SessionId> Scheduler::Fork(SessionId id, int64_t max_tokens, std::optional<int64_t> reserved_tokens) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  const Session& parent = found->second;
  if (max_tokens < parent.sequence.length) {
    return absl::InvalidArgumentError(absl::StrFormat("the session holds %d tokens, a fork's max_tokens of %d is less",
                                                      parent.sequence.length, max_tokens));
  }
  if (absl::Status s = CheckLimit(max_tokens); !s.ok()) return s;
  if (absl::Status s = RoomForSession(); !s.ok()) return s;
  const int64_t reserved = std::min(reserved_tokens.value_or(max_tokens), max_tokens);
  const int64_t room = std::max(reserved, parent.sequence.length);
  Sequence sequence;
  if (absl::Status s = pool_.Fork(parent.sequence, room, &sequence, &cache_updates_); !s.ok()) return s;
  sequence.tokens = parent.sequence.tokens;
  const SessionId fork = AddSession(max_tokens, std::move(sequence));
  sessions_[fork].reserved = reserved;
  return fork;
}

absl::Status Scheduler::Reserve(SessionId id, int64_t reserved_tokens) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  Session& session = found->second;
  const int64_t reserved = std::min(reserved_tokens, session.max_tokens);
  int64_t room = std::max(reserved, session.sequence.length);
  for (RequestId queued : session.queue) {  // what runs keeps what it was given
    const Request& request = requests_.at(queued);
    if (request.sequence == &session.sequence) room = std::max(room, session.sequence.length + Unfed(request));
  }
  if (absl::Status s = pool_.SetRoom(&session.sequence, room); !s.ok()) return s;
  session.reserved = reserved;
  return absl::OkStatus();
}

absl::Status Scheduler::CheckRoom(SessionId id, int64_t tokens) const {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  const Sequence& sequence = found->second.sequence;
  const int64_t more = pool_.PagesFor(tokens) - static_cast<int64_t>(sequence.pages.size()) - sequence.reserved;
  const int64_t split_more =
      pool_.SplitPagesFor(tokens) - static_cast<int64_t>(sequence.split_pages.size()) - sequence.split_reserved;
  if (RoomWillCome(more, split_more)) return absl::OkStatus();
  return Busy(absl::StrFormat(
      "KV memory: with them the session has %d tokens, which takes %d pages and %d split pages of %d tokens more, and "
      "%d and %d are available (of %d and %d; other sessions have or were promised the rest): close or rewind one, or "
      "try again later",
      tokens, std::max<int64_t>(more, 0), std::max<int64_t>(split_more, 0), kPageTokens, pool_.pages().available(),
      pool_.split_pages().available(), pool_.pages().size(), pool_.split_pages().size()));
}

absl::Status Scheduler::Rewind(SessionId id, int64_t tokens) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  Session& session = found->second;
  Sequence& sequence = session.sequence;
  if (tokens < 0 || tokens > sequence.length) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the session holds %d tokens, it cannot be rewound to %d", sequence.length, tokens));
  }
  if (const int standing = StandingRequests(session); standing > 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%d of the session's requests are pending; rewind it when they are done", standing));
  }
  if (tokens == sequence.length) return absl::OkStatus();
  const int64_t room = std::max(session.reserved, tokens);
  if (absl::Status s = pool_.Shrink(&sequence, tokens, room, &cache_updates_); !s.ok()) return s;
  sequence.tokens.resize(tokens);
  sequence.length = tokens;
  // Rings that are being rebuilt already hold nothing before ring_begin: begin again where this position needs it.
  sequence.rings_at = options_.refeed == 0 ? tokens : std::max<int64_t>(0, tokens - options_.refeed);
  sequence.ring_begin = sequence.rings_at;
  return absl::OkStatus();
}

int Scheduler::StandingRequests(const Session& session) const {
  int count = 0;
  for (RequestId id : session.queue) {
    const Request& request = requests_.at(id);
    if (ExtendsSession(request) || request.sequence == nullptr) ++count;
  }
  return count;
}

absl::StatusOr<SessionInfo> Scheduler::Get(SessionId id) const {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  const Session& session = found->second;
  SessionInfo info;
  info.id = id;
  info.tokens = session.sequence.length;
  info.max_tokens = session.max_tokens;
  info.reserved_tokens = std::max(session.reserved, session.sequence.length);
  for (RequestId queued : session.queue) {
    const Request& request = requests_.at(queued);
    if (request.sequence != &session.sequence) continue;
    info.reserved_tokens = std::max(info.reserved_tokens, session.sequence.length + Unfed(request));
  }
  info.pending_requests = static_cast<int>(session.queue.size());
  info.standing_requests = StandingRequests(session);
  return info;
}

std::vector<SessionId> Scheduler::List() const {
  std::vector<SessionId> ids;
  for (const auto& [id, session] : sessions_) ids.push_back(id);
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Scheduler::Tokens(SessionId id) const {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  return found->second.sequence.tokens;
}

const Sequence* Scheduler::FindSequence(SessionId id) const {
  auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : &found->second.sequence;
}

absl::StatusOr<RequestId> Scheduler::Append(SessionId id, std::vector<int32_t> tokens, RequestEvents events,
                                            int64_t more_tokens) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  Request request;
  request.more_tokens = more_tokens;
  request.tokens = std::move(tokens);
  request.events = std::move(events);
  return Submit(&found->second, std::move(request));
}

absl::Status Scheduler::CheckQuestion(const GenerateParams& params) {
  if (params.max_new_tokens < (params.rules.prompt_scores >= 0 ? 0 : 1)) {
    return absl::InvalidArgumentError("max_new_tokens must be at least 1");
  }
  if (!(params.temperature >= 0)) return absl::InvalidArgumentError("temperature must not be negative");
  if (params.top_p > 0 && params.top_p <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError("top_p must be above 0 and at most 1");
}

absl::StatusOr<RequestId> Scheduler::Ask(SessionId id, std::vector<int32_t> tokens, const GenerateParams& params,
                                         RequestEvents events) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  if (absl::Status s = CheckQuestion(params); !s.ok()) return s;
  Request request;
  request.ask = true;
  request.tokens = std::move(tokens);
  request.params = params;
  request.events = std::move(events);
  return Submit(&found->second, std::move(request));
}

absl::StatusOr<RequestId> Scheduler::Submit(Session* session, Request request) {
  if (request.tokens.empty()) return absl::InvalidArgumentError("there is no text: at least one token is needed");
  if (static_cast<int64_t>(requests_.size()) >= options_.max_pending) {
    return Busy(absl::StrFormat("%d requests are pending already; try again later", requests_.size()));
  }
  const int64_t tokens =
      static_cast<int64_t>(request.tokens.size()) + (request.ask ? request.params.max_new_tokens : 0);
  const int64_t before = session->sequence.length + session->promised;
  if (ExtendsSession(request)) {
    if (before + tokens + request.more_tokens > session->max_tokens) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "the session holds %d tokens (%d more are pending) of at most %d; %d more do not fit",
          session->sequence.length, session->promised, session->max_tokens, tokens + request.more_tokens));
    }
    session->promised += tokens;
  } else if (absl::Status s = CheckFits(*session, before, tokens); !s.ok()) {
    return s;
  }
  return Queue(session, std::move(request));
}

RequestId Scheduler::Queue(Session* session, Request request) {
  request.id = next_request_++;
  request.session = session;
  request.submitted = Clock::now();
  session->queue.push_back(request.id);
  const RequestId id = request.id;
  requests_.emplace(id, std::move(request));
  return id;
}

// A question's fork shares its session's full pages. What it needs besides must fit beside all that is promised to the
// session, in a cache that is empty otherwise; if not, it would wait for ever.
absl::Status Scheduler::CheckFits(const Session& session, int64_t before, int64_t tokens) const {
  const int64_t held = std::max(session.reserved, before);
  const PagePool* const pools[] = {&pool_.pages(), &pool_.split_pages()};
  const int64_t needed[] = {pool_.PagesFor(before + tokens) - pool_.FullPages(before),
                            pool_.SplitPagesFor(before + tokens) - pool_.FullSplitPages(before)};
  const int64_t promised[] = {pool_.PagesFor(held), pool_.SplitPagesFor(held)};
  for (int i = 0; i < 2; ++i) {
    if (needed[i] == 0 || needed[i] + promised[i] <= pools[i]->size()) continue;
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the question and its answer need %d %s beside the %d that the session has or was promised for %d tokens, and "
        "the cache has %d: ask for a shorter answer, or open the session with less reserved",
        needed[i], i == 0 ? "pages" : "split pages", promised[i], held, pools[i]->size()));
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Cancel(RequestId id) {
  auto found = requests_.find(id);
  if (found == requests_.end()) return absl::NotFoundError(absl::StrCat("there is no request ", id));
  Finish(found->second, absl::CancelledError("the request was cancelled"), Finish::kStop);
  return absl::OkStatus();
}

// Requests of a session run in order: an append or a kept answer alone, questions on forks side by side, each on the
// session as the requests before it left it.
void Scheduler::StartWhatCan() {
  for (bool again = true; std::exchange(again, false);) {
    std::vector<std::pair<RequestId, absl::Status>> refused;
    for (auto& [id, request] : requests_) {  // ascending ids: first come, first served
      if (request.sequence != nullptr || Blocked(request)) continue;
      if (request.reader != 0) {
        TryFollow(request);
      } else if (absl::Status s = TryStart(request); !s.ok()) {
        refused.emplace_back(id, std::move(s));
      }
    }
    for (auto& [id, status] : refused) {  // what is behind them may start
      Finish(requests_.at(id), std::move(status), Finish::kStop);
      again = true;
    }
  }
}

bool Scheduler::Blocked(const Request& request) const {
  if (request.reader != 0) return false;
  for (RequestId earlier : request.session->queue) {
    if (earlier == request.id) return false;
    const Request& other = requests_.at(earlier);
    if (ExtendsSession(other)) return true;
    // A question that has its fork no longer needs the session to stand still, and one that another reads for needs it
    // only to stay as it is.
    if (other.sequence == nullptr && (other.reader == 0 || ExtendsSession(request))) return true;
  }
  return false;
}

absl::Status Scheduler::TryStart(Request& request) {
  Session& session = *request.session;
  // Rings that must be rebuilt are rebuilt on the session, once, not on every fork.
  if (NeedsRebuild(session.sequence)) return absl::OkStatus();
  if (ExtendsSession(request)) return TakeRoom(request);
  if (running_questions_ >= options_.questions || !pool_.HasSlot()) return absl::OkStatus();
  const int64_t length = session.sequence.length, tokens = length + Unfed(request);
  if (absl::Status s = pool_.Fork(session.sequence, tokens, &request.fork, &cache_updates_); !s.ok()) {
    const bool waits = RoomWillCome(pool_.PagesFor(tokens) - pool_.FullPages(length),
                                    pool_.SplitPagesFor(tokens) - pool_.FullSplitPages(length));
    return waits ? absl::OkStatus() : s;
  }
  request.sequence = &request.fork;
  ++running_questions_;
  return absl::OkStatus();
}

// An append's text, a kept question's and its answer have their room before their first step: nothing ends half-way.
absl::Status Scheduler::TakeRoom(Request& request) {
  Session& session = *request.session;
  const int64_t room = session.sequence.length + Unfed(request) + request.more_tokens;
  if (!pool_.SetRoom(&session.sequence, std::max(session.reserved, room)).ok()) return CheckRoom(session.id, room);
  if (request.more_tokens > 0) session.reserved = std::max(session.reserved, room);
  request.sequence = &session.sequence;
  return absl::OkStatus();
}

// Tokens that it still adds to its sequence at most.
int64_t Scheduler::Unfed(const Request& r) {
  const int64_t answer = r.ask ? r.params.max_new_tokens - r.result.new_tokens : 0;
  return static_cast<int64_t>(r.tokens.size() - r.fed) + answer;
}

void Scheduler::OnSampled(Request& request, int32_t token, const TokenScore* score) {
  if (token == kNoneAllowed) {
    return Finish(request,
                  absl::InvalidArgumentError("what the request allows, bans and biases leaves no token to draw"),
                  Finish::kStop);
  }
  if (token == kNoToken) {
    return Finish(request,
                  absl::InternalError(absl::StrFormat(
                      "the model's output after %d tokens is no number (NaN or infinity): its weights are "
                      "damaged, or too coarse a format (--weights, --kv) overflows",
                      request.sequence->length)),
                  Finish::kStop);
  }
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
  if (score != nullptr && request.events.on_score) request.events.on_score(*score);
  const bool go_on = !request.events.on_token || request.events.on_token(token);
  request.tokens.push_back(token);
  if (go_on && request.result.new_tokens < request.params.max_new_tokens) return;
  request.result.finish = go_on ? Finish::kLength : Finish::kStop;
  if (request.params.keep) {
    request.closing = true;  // one more step feeds the last token, so that the session has it
  } else {
    Finish(request, absl::OkStatus(), request.result.finish);
  }
}

void Scheduler::Finish(Request& request, absl::Status status, duo::Finish finish) {
  request.result.status = std::move(status);
  request.result.finish = finish;
  if (request.drawing) request.result.decode_seconds = SecondsBetween(request.prompt_done, Clock::now());
  Session& session = *request.session;
  if (ExtendsSession(request)) {
    session.promised -= Unfed(request);
    if (request.sequence != nullptr) {  // what it did not use comes back
      DUO_CHECK(pool_.SetRoom(&session.sequence, std::max(session.reserved, session.sequence.length)).ok());
    }
  } else if (request.sequence != nullptr) {
    pool_.Close(&request.fork);
    --running_questions_;
  }
  if (request.reader != 0) std::erase(requests_.at(request.reader).followers, request.id);
  HandOver(request, std::move(request.tokens));
  session.queue.erase(std::find(session.queue.begin(), session.queue.end(), request.id));
  const RequestEvents events = std::move(request.events);
  const RequestResult result = std::move(request.result);
  requests_.erase(request.id);
  if (events.on_done) events.on_done(result);
}

EngineStats Scheduler::stats() const {
  EngineStats stats = stats_;
  stats.pages = pool_.pages().size();
  stats.pages_free = pool_.pages().free();
  stats.pages_available = pool_.pages().available();
  stats.split_pages = pool_.split_pages().size();
  stats.split_pages_free = pool_.split_pages().free();
  stats.rings = pool_.rings();
  stats.rings_free = pool_.rings_free();
  stats.sessions = static_cast<int>(sessions_.size());
  for (const auto& [id, request] : requests_) ++(request.sequence != nullptr ? stats.running : stats.waiting);
  stats.predicted_wait = PredictedWait();
  return stats;
}

// What is still to be read and, at most, to be written takes so long; one of n requests is done after an n-th of it.
double Scheduler::PredictedWait() const {
  if (requests_.empty()) return 0;
  double seconds = 0;
  for (const auto& [id, request] : requests_) {
    const Sequence* sequence = request.sequence != nullptr ? request.sequence : &request.session->sequence;
    if (!request.drawing && request.reader == 0) seconds += chunk_time_.Predict(Remaining(request), sequence->length);
    if (!request.ask) continue;
    const int64_t left = request.params.max_new_tokens - request.result.new_tokens;
    seconds += static_cast<double>(std::max<int64_t>(left, 0)) * rows_seconds_ / options_.max_batch;
  }
  return seconds / static_cast<double>(requests_.size());
}

}  // namespace duo
