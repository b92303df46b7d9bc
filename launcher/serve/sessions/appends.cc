// Appends while they are read, with checkpoints, stops and ends.
#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/serve/sessions/sessions.h"

namespace duo {

// The session's append, as long as it is being read; null otherwise.
static Append* Reading(NamedSession* session) {
  return session != nullptr && session->state.reading() ? &session->append : nullptr;
}

bool Sessions::AllRead(const NamedSession& session) const {
  return session.state.append() == AppendPhase::kDone || Tokens(session) - session.append.start >= session.append.total;
}

AppendView Sessions::ViewOfAppend(const NamedSession& session) const {
  const Append& append = session.append;
  AppendView view;
  view.id = append.id;
  view.received_bytes = append.received_bytes;
  view.total_tokens = append.total;
  view.done = session.state.append() == AppendPhase::kDone;
  view.tokens = view.done ? append.total : std::clamp<int64_t>(Tokens(session) - append.start, 0, append.total);
  view.received_all = true;
  return view;
}

void Sessions::ForgetAppend(NamedSession& session) {
  session.state.To(AppendPhase::kNone);
  session.append = {};
}

// Gives the engine the next piece: up to the next checkpoint, or all.
void Sessions::ReadNext(const std::string& id) {
  NamedSession* session = Lookup(id);
  Append* append = Reading(session);
  if (append == nullptr) return;
  const int64_t at = Tokens(*session) - append->start;
  if (at >= append->total) {  // also where it goes on after a checkpoint that failed
    if (session->durable && session->durable_tokens < Tokens(*session)) return Checkpoint(id);
    return EndAppend(id, absl::OkStatus());
  }
  if (append->call != nullptr && append->call->cancelled) {
    return EndAppend(id, absl::CancelledError("the call was cancelled"));
  }
  if (draining_) return EndAppend(id, absl::CancelledError("draining"));
  int64_t count = append->total - at;
  if (session->durable) {
    const int64_t step = options_.checkpoint_tokens;
    count = std::min(count, step - (append->start + at) % step);
  }
  RequestEvents events;
  events.on_progress = [this, id](int64_t done, int64_t) {
    if (const NamedSession* s = Lookup(id); s != nullptr) ReportProgress(*s, done);
  };
  auto own = std::make_shared<RequestId>(0);
  events.on_done = [this, id, own](const RequestResult& result) {
    // Not from inside the engine: what follows calls it again.
    Later([this, id, own, result] { OnPieceRead(id, *own, result); });
  };
  const auto first = append->tokens.begin() + at;
  // All of it has its room before the first piece is read, so that it does not end half-way.
  absl::StatusOr<RequestId> request = engine_.Append(session->session, std::vector<int32_t>(first, first + count),
                                                     std::move(events), append->total - at - count, append->whose);
  if (!request.ok()) return EndAppend(id, OfSession(id, request.status()));
  append->request = *own = *request;
  if (append->call != nullptr) {
    append->call->cancel = [this, request = *request] { engine_.Cancel(request).IgnoreError(); };
  }
}

void Sessions::ReportProgress(const NamedSession& session, int64_t in_piece) {
  const Append& append = session.append;
  if (!session.state.reading() || !append.events.on_progress) return;
  AppendProgress progress;
  progress.total = append.total;
  progress.tokens = ViewOfAppend(session).tokens;
  progress.waiting = in_piece == 0;
  // What is left is to what was read as the engine's predictions of the two are: a token costs more the more there are
  // before it, and whatever runs beside goes on as it did.
  const int64_t from = append.start + append.begun_at, now = append.start + progress.tokens;
  const double done = engine_.PredictRead(now - from, from);
  if (done > 0) {
    progress.seconds_left =
        SecondsSince(append.begun) * engine_.PredictRead(append.total - progress.tokens, now) / done;
  }
  append.events.on_progress(progress);
}

void Sessions::OnPieceRead(const std::string& id, RequestId request, const RequestResult& result) {
  NamedSession* session = Lookup(id);
  Append* append = Reading(session);
  if (append == nullptr || append->request != request) return;  // of a session of the same name that was closed
  append->request = 0;
  if (append->call != nullptr) append->call->cancel = nullptr;
  append->result.queue_seconds += result.queue_seconds;
  append->result.read_seconds += result.prefill_seconds;
  // What was cancelled was a former call's; this one has taken the append up since.
  const bool taken_up = absl::IsCancelled(result.status) && append->call != nullptr && !append->call->cancelled;
  if (taken_up && !draining_) return ReadNext(id);
  if (!result.status.ok()) return EndAppend(id, result.status);
  if (!session->durable) return ReadNext(id);
  Checkpoint(id);
}

void Sessions::Checkpoint(const std::string& id) {
  StartSaveJob(*Lookup(id), [this, id](const absl::Status& status, StoreJob& job) {
    Append* a = Reading(Lookup(id));
    if (a == nullptr) return;
    if (!status.ok()) return EndAppend(id, status);
    ++stats_.checkpoints;
    ++a->result.checkpoints;
    a->result.checkpoint_seconds += SecondsSince(job.begun);
    ReadNext(id);
  });
}

// The append stops being read: done where the status is OK.
void Sessions::EndAppend(const std::string& id, absl::Status status) {
  NamedSession* session = Lookup(id);
  if (Reading(session) == nullptr) return;
  Append& append = session->append;
  session->used = Clock::now();
  if (draining_ && absl::IsCancelled(status) && !(append.call != nullptr && append.call->cancelled)) {
    status = absl::UnavailableError(absl::StrFormat(
        "the server is draining: the append stopped after %d of %d tokens; %s", ViewOfAppend(*session).tokens,
        append.total, append.id.empty() ? "it was undone" : "repeat it after the restart"));
  }
  AppendDone done = std::exchange(append.result, {});
  done.status = status;
  done.tokens = ViewOfAppend(*session).tokens;
  done.received_bytes = append.received_bytes;
  const AppendEvents events = std::exchange(append.events, {});
  if (append.call != nullptr) append.call->cancel = nullptr;
  const CallPtr call = std::exchange(append.call, nullptr);
  log_.Event(status.ok() ? "append done" : "append stopped",
             {{"session", id},
              {"request", call != nullptr ? call->request : ""},
              {"trace", call != nullptr ? call->trace : ""},
              {"tokens", done.tokens},
              {"of", append.total},
              {"seconds", done.read_seconds},
              {"status", status.ok() ? "OK" : std::string(status.message())}});
  if (status.ok() && options_.sources) KeepSent(*session);
  const bool anonymous = append.id.empty();
  if (session->state.in_cache()) engine_.Reserve(session->session, session->reserved_tokens).IgnoreError();
  if (!status.ok()) {
    // What got no room and has read nothing leaves nothing behind.
    const bool refused = absl::IsResourceExhausted(status) && done.tokens == 0;
    session->state.To(AppendPhase::kStopped);
    if ((anonymous || refused) && session->state.in_cache()) UndoAppend(*session);
  } else if (anonymous) {
    ForgetAppend(*session);
  } else {
    session->state.To(AppendPhase::kDone);
    append.tokens = {};
  }
  done.session = View(*session);
  if (events.on_done) events.on_done(done);
  RunWaiting(id);
}

// What the append sent, as it was sent. What is not known, because it came before a restart, is what its tokens say.
void Sessions::KeepSent(NamedSession& session) {
  Append& append = session.append;
  SentText& sent = session.sent;
  if (!sent.known && append.start > 0) {
    const absl::StatusOr<std::vector<int32_t>> all = engine_.Tokens(session.session);
    if (!all.ok() || static_cast<int64_t>(all->size()) < append.start) return;
    const std::string said = options_.tokenizer->Decode(std::span(*all).first(append.start));
    sent.Add(said + append.before.tail_text(), "", 0, append.start, append.before.tail_bytes());
  }
  if (append.sent.empty()) append.sent = options_.tokenizer->Decode(append.tokens);
  sent.Add(append.sent, std::move(append.frame), append.start, Tokens(session), session.text.tail_bytes());
  append.sent.clear();
}

// Nobody can take it up again: as if it had never been. Questions that have no fork yet come first, all others after.
void Sessions::UndoAppend(NamedSession& session) {
  if (Free(session, Turn::kRewinds)) return UndoNow(session);
  UndoLater(session, Turn::kRewinds);
}

void Sessions::UndoLater(NamedSession& session, Turn turn) {
  session.waiting.push_front({nullptr, turn, [this, id = session.id](const absl::Status& free) {
                                if (free.ok()) UndoNow(*Lookup(id));
                              }});
}

void Sessions::UndoNow(NamedSession& session) {
  const int64_t start = session.append.start;
  if (absl::Status undone = engine_.Rewind(session.session, start); !undone.ok()) {
    if (!session.questions.empty()) return UndoLater(session, Turn::kAlone);  // they hold its pages
    log_.Warn("append not undone", {{"session", session.id}, {"status", std::string(undone.message())}});
    return;
  }
  session.text = std::move(session.append.before);
  ForgetAppend(session);
  session.durable_tokens = std::min(session.durable_tokens, start);
  if (store_ != nullptr) store_->Do([s = store_, id = session.id, start] { s->Rewound(id, start); });
  if (session.durable && !draining_) StartSaveJob(session, [](const absl::Status&, StoreJob&) {});
}

}  // namespace duo
