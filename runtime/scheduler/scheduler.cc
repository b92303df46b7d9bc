// Which sessions there are, and what they hold.
#include "runtime/scheduler/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/scheduler/busy.h"

namespace duo {
Scheduler::Scheduler(const SchedulerOptions& options, const KvSizes& sizes, bool has_whole, bool has_split)
    : options_(options),
      pool_(sizes, has_whole, has_split),
      chunk_time_({options.flop_per_token, options.flop_per_token_pair, options.flop_rate, options.rider_factor}),
      step_costs_(options.row_cost) {
  for (int slot = options.lists - 1; slot >= 0; --slot) list_slots_.push_back(slot);
}

Scheduler::~Scheduler() = default;

absl::Status Scheduler::NoSession(SessionId id) {
  return absl::NotFoundError(absl::StrCat("there is no session ", id));
}

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
  return absl::ResourceExhaustedError(
      absl::StrFormat("%d tokens were asked for, a session holds at most %d", max_tokens, pool_.table_tokens()));
}

absl::StatusOr<SessionId> Scheduler::CreateSession(int64_t max_tokens, std::optional<int64_t> reserved_tokens) {
  if (max_tokens < 1) return absl::InvalidArgumentError("a session needs max_tokens of at least 1");
  if (absl::Status s = CheckLimit(max_tokens); !s.ok()) return s;
  if (absl::Status s = RoomForSession(); !s.ok()) return s;
  const int64_t reserved = std::min(reserved_tokens.value_or(max_tokens), max_tokens);
  Sequence sequence;
  MakeRoom(NeededBehind(0, reserved));
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

void Scheduler::SetSparse(SessionId id, SparseRead sparse) {
  const auto found = sessions_.find(id);
  if (found != sessions_.end()) found->second.sequence.sparse = std::move(sparse);
}

absl::Status Scheduler::CloseSession(SessionId id) {
  if (const auto prefix = prefixes_.find(id); prefix != prefixes_.end()) {
    pool_.Close(&prefix->second.sequence);
    prefixes_.erase(prefix);
    may_start_ = true;
    return absl::OkStatus();
  }
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  const std::deque<RequestId> queue = found->second.queue;
  for (RequestId request : queue) {
    Finish(requests_.at(request), absl::CancelledError("the session was closed"), Finish::kStop);
  }
  pool_.Close(&found->second.sequence);
  sessions_.erase(found);
  may_start_ = true;
  return absl::OkStatus();
}

absl::StatusOr<SessionId> Scheduler::Fork(SessionId id, int64_t max_tokens, std::optional<int64_t> reserved_tokens) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  Session& parent = found->second;
  if (max_tokens < parent.sequence.length) {
    return absl::InvalidArgumentError(absl::StrFormat("the session holds %d tokens, a fork's max_tokens of %d is less",
                                                      parent.sequence.length, max_tokens));
  }
  if (absl::Status s = CheckLimit(max_tokens); !s.ok()) return s;
  if (absl::Status s = RoomForSession(); !s.ok()) return s;
  const int64_t reserved = std::min(reserved_tokens.value_or(max_tokens), max_tokens);
  const int64_t length = parent.sequence.length, room = std::max(reserved, length);
  Sequence sequence;
  MakeRoom(NeededBehind(length, room));
  if (absl::Status s = pool_.Fork(parent.sequence, length, room, &sequence, &cache_updates_); !s.ok()) return s;
  sequence.tokens = parent.sequence.tokens;
  const SessionId fork = AddSession(max_tokens, std::move(sequence));
  sessions_[fork].reserved = reserved;
  sessions_[fork].index = parent.index.Fork();
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
  MakeRoom(NeededFor(session.sequence, room));
  if (absl::Status s = pool_.SetRoom(&session.sequence, room); !s.ok()) return s;
  session.reserved = reserved;
  may_start_ = true;
  return absl::OkStatus();
}

absl::Status Scheduler::CheckRoom(SessionId id, int64_t tokens) const {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  const Sequence& sequence = found->second.sequence;
  const Room more = NeededFor(sequence, tokens), available = RoomAfter(false, nullptr, 0);
  if (available.holds(more) || RoomToCome().holds(more)) return absl::OkStatus();
  return Busy(absl::StrFormat(
      "KV memory: with them the session has %d tokens, which takes %d pages and %d split pages of %d tokens more, and "
      "%d and %d are available (of %d and %d; other sessions have or were promised the rest): close or rewind one, or "
      "try again later",
      tokens, std::max<int64_t>(more.pages, 0), std::max<int64_t>(more.split_pages, 0), kPageTokens, available.pages,
      available.split_pages, pool_.pages().size(), pool_.split_pages().size()));
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
  absl::Status cut = pool_.Shrink(&sequence, tokens, room, &cache_updates_);
  while (!cut.ok() && DropCheapest()) cut = pool_.Shrink(&sequence, tokens, room, &cache_updates_);
  if (!cut.ok()) return cut;
  may_start_ = true;
  sequence.tokens.resize(tokens);
  FollowTokens(sequence.tokens, &sequence.chain);  // what comes next is other text
  session.index.Cut(tokens);
  sequence.length = tokens;
  sequence.sparse.Cut(tokens);
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
  info.sparse = session.sequence.sparse.Report(options_.kv_heads);
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
  if (const auto prefix = prefixes_.find(id); prefix != prefixes_.end()) return &prefix->second.sequence;
  auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : &found->second.sequence;
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
  stats.running = static_cast<int>(running_.size());
  stats.waiting = static_cast<int>(requests_.size() - running_.size());
  stats.prefixes = static_cast<int>(prefixes_.size());
  stats.predicted_wait = PredictedWait();
  return stats;
}

// What is still to be read and, at most, to be written takes so long; one of n requests is done after an n-th of it.
double Scheduler::PredictedWait() const {
  if (requests_.empty()) return 0;
  const double places = std::clamp<int>(static_cast<int>(running_.size()), 1, options_.max_batch);
  double seconds = 0;
  for (const auto& [id, request] : requests_) {
    const Sequence* sequence = request.sequence != nullptr ? request.sequence : &request.session->sequence;
    if (!request.drawing && request.reader == 0) seconds += chunk_time_.Predict(Remaining(request), sequence->length);
    if (!request.ask) continue;
    const int64_t left = request.params.max_new_tokens - request.result.new_tokens;
    seconds += static_cast<double>(std::max<int64_t>(left, 0)) * rows_seconds_ / places;
  }
  return seconds / static_cast<double>(requests_.size());
}

}  // namespace duo
