// A request's life: what is refused at once, when it starts, and what it gives back at its end.
#include <algorithm>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "kernels/base/seconds.h"
#include "runtime/scheduler/busy.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {

absl::StatusOr<RequestId> Scheduler::Append(SessionId id, std::vector<int32_t> tokens, RequestEvents events,
                                            int64_t more_tokens, const Whose& whose) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  Request request;
  request.more_tokens = more_tokens;
  request.whose = whose;
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
  request.whose = params.whose;
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
  may_start_ = true;
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

// Those that their session's other requests let start, in the order in which places are given: callers in turn, those
// with fewer questions running first, then those that had fewer; of a caller the lower priority, then the older one.
// Requests of a session run in order: an append or a kept answer alone, questions on forks side by side, each on the
// session as the requests before it left it.
std::vector<Scheduler::Request*> Scheduler::MayStart() {
  for (auto& [id, session] : sessions_) session.stands = session.waits = false;
  std::vector<Request*> all;
  for (auto& [id, request] : requests_) {  // ascending ids: those of a session in their order
    Session& session = *request.session;
    const bool extends = ExtendsSession(request), waiting = request.sequence == nullptr;
    const bool follows = request.reader != 0;  // it forks its reader, not the session
    if (waiting && (follows || (!session.stands && !(extends && session.waits)))) all.push_back(&request);
    // A question that has its fork no longer needs the session to stand still.
    session.stands |= extends;
    session.waits |= waiting;
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Request* a, const Request* b) { return a->whose.priority < b->whose.priority; });
  std::map<std::string, int> before;
  std::vector<std::tuple<int64_t, int64_t, Request*>> order;
  for (Request* request : all) {
    const auto counts = callers_.find(request->whose.caller);
    const CallerCounts had = counts == callers_.end() ? CallerCounts() : counts->second;
    const int turn = before[request->whose.caller]++;
    order.emplace_back(had.questions + turn, had.started + turn, request);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(std::get<0>(a), std::get<1>(a)) < std::pair(std::get<0>(b), std::get<1>(b));
  });
  for (size_t i = 0; i < order.size(); ++i) all[i] = std::get<Request*>(order[i]);
  return all;
}

void Scheduler::StartWhatCan() {
  while (std::exchange(may_start_, false)) {
    std::optional<Room> to_come;
    std::vector<std::pair<RequestId, absl::Status>> refused;
    std::set<std::pair<const Session*, std::string_view>> waiting;  // whose calls there do not overtake each other
    for (Request* request : MayStart()) {
      if (request->reader != 0) {
        TryFollow(*request);
        continue;
      }
      const std::pair<const Session*, std::string_view> line(request->session, request->whose.caller);
      if (waiting.count(line) != 0) continue;
      if (absl::Status s = TryStart(*request, &to_come); !s.ok()) refused.emplace_back(request->id, std::move(s));
      if (request->sequence != nullptr) {
        running_.emplace(request->id, request);
      } else if (request->joins == 0) {
        waiting.insert(line);
      }
    }
    // What is behind them may start: Finish says so.
    for (auto& [id, status] : refused) Finish(requests_.at(id), std::move(status), Finish::kStop);
  }
}

// A caller with a name leaves the last place to one that has none: whoever comes is answered at once, however many
// questions another has waiting.
bool Scheduler::LastPlaceIsForOthers(const Request& request) const {
  if (request.whose.caller.empty() || options_.questions < 2) return false;
  const auto counts = callers_.find(request.whose.caller);
  return running_questions_ == options_.questions - 1 && counts != callers_.end() && counts->second.questions > 0;
}

absl::Status Scheduler::TryStart(Request& request, std::optional<Room>* to_come) {
  Session& session = *request.session;
  // Rings that must be rebuilt are rebuilt on the session, once, not on every fork.
  if (NeedsRebuild(session.sequence)) return absl::OkStatus();
  if (ExtendsSession(request)) {
    to_come->reset();  // it takes what does not come back
    return TakeRoom(request);
  }
  if (Shares(request) && session.sequence.length > 0) {  // the tokens are a whole prompt: there is nothing before them
    return absl::FailedPreconditionError(absl::StrFormat(
        "a whole prompt is asked on an empty session, and this one has %d tokens", session.sequence.length));
  }
  if (running_questions_ >= options_.questions || !pool_.HasSlot()) return absl::OkStatus();
  if (LastPlaceIsForOthers(request)) return absl::OkStatus();
  Origin origin = {&session.sequence, session.sequence.length};
  if (Shares(request)) origin = OriginOf(request);
  if (request.joins != 0) return absl::OkStatus();
  const int64_t tokens = session.sequence.length + Unfed(request);
  const Room needed = NeededBehind(origin.at, tokens), alone = NeededBehind(session.sequence.length, tokens);
  if (!MakeRoom(needed, &origin)) {  // what forks take comes back: the sum is the same for all that wait
    if (!to_come->has_value()) *to_come = RoomToCome();
    if (origin.sequence != &session.sequence && MakeRoom(alone)) {
      origin = {&session.sequence, session.sequence.length};
    } else if ((*to_come)->holds(alone) || RoomAfter(true, origin.prefix, origin.at).holds(needed)) {
      return absl::OkStatus();
    }
  }
  if (absl::Status s = pool_.Fork(*origin.sequence, origin.at, tokens, &request.fork, &cache_updates_); !s.ok()) {
    return s;
  }
  request.sequence = &request.fork;
  if (Shares(request)) GoOnAt(request, origin);
  if (request.events.on_start) request.events.on_start(request.result.cached);
  CountStarted(request);
  return absl::OkStatus();
}

void Scheduler::CountStarted(const Request& request) {
  ++running_questions_;
  CallerCounts& counts = callers_[request.whose.caller];
  ++counts.questions;
  ++counts.started;
}

// An append's text, a kept question's and its answer have their room before their first step: nothing ends half-way.
absl::Status Scheduler::TakeRoom(Request& request) {
  Session& session = *request.session;
  const int64_t room = session.sequence.length + Unfed(request) + request.more_tokens;
  MakeRoom(NeededFor(session.sequence, std::max(session.reserved, room)));
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

void Scheduler::Finish(Request& request, absl::Status status, duo::Finish finish) {
  request.result.status = std::move(status);
  request.result.finish = finish;
  if (request.drawing) request.result.decode_seconds = SecondsBetween(request.prompt_done, Clock::now());
  Session& session = *request.session;
  if (request.sequence != nullptr) request.result.sparse = request.sequence->sparse.Report(options_.kv_heads);
  if (request.sequence != nullptr) pool_.Trim(request.sequence);  // it may end among drafts
  GiveBackLists(request);
  if (ExtendsSession(request)) {
    session.promised -= Unfed(request);
    if (request.sequence != nullptr) {  // what it did not use comes back
      DUO_CHECK(pool_.SetRoom(&session.sequence, std::max(session.reserved, session.sequence.length)).ok());
    }
  } else if (request.sequence != nullptr) {
    if (!Leave(request)) pool_.Close(&request.fork);
    --running_questions_;
    --callers_[request.whose.caller].questions;
  }
  if (request.reader != 0) std::erase(requests_.at(request.reader).followers, request.id);
  HandOver(request, std::move(request.tokens));
  session.queue.erase(std::find(session.queue.begin(), session.queue.end(), request.id));
  running_.erase(request.id);
  if (requests_.size() == 1) callers_.clear();  // it was the last
  may_start_ = true;
  const RequestEvents events = std::move(request.events);
  const RequestResult result = std::move(request.result);
  requests_.erase(request.id);
  if (events.on_done) events.on_done(result);
}

}  // namespace duo
