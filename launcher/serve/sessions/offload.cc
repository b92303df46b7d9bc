// Sessions over time: what the server finds when it starts, idle sessions that are moved out to disk, and the drain.
#include <algorithm>

#include "launcher/serve/sessions/sessions.h"

namespace duo {
void Sessions::Recover() {
  if (store_ == nullptr) return;
  for (const SavedSession& listed : store_->List()) {
    if (!listed.usable.ok()) {
      log_.Warn("saved session is unusable",
                {{"session", listed.id}, {"status", std::string(listed.usable.message())}});
      continue;
    }
    const SessionManifest& manifest = *listed.manifest;
    if (!manifest.open) continue;
    absl::Status held;
    store_->Do([&] { held = store_->Hold(listed.id); });
    store_->WaitForDisk();  // nobody is served yet
    if (!held.ok()) {
      log_.Warn("session not taken up", {{"session", listed.id}, {"status", std::string(held.message())}});
      continue;
    }
    NamedSession& session = Add(listed.id, manifest.owner, Place::kMovedOut);
    session.max_tokens = std::min(manifest.max_tokens, std::max(options_.max_session_tokens, manifest.tokens));
    session.reserved_tokens = std::min(manifest.reserved_tokens, session.max_tokens);
    session.moved_tokens = session.durable_tokens = manifest.tokens;
    session.durable = manifest.durable;
    session.pinned = manifest.pinned;
    session.text = manifest.text;
    if (manifest.append.has_value()) AdoptAppend(session, *manifest.append);
    log_.Event("session found", {{"session", listed.id}, {"tokens", manifest.tokens}});
    if (session.durable && session.state.append() == AppendPhase::kStopped) {
      StartRestoreJob(session);
      session.state.To(AppendPhase::kReading);
    }
  }
}

void Sessions::MoveOutIdle(double idle_seconds) {
  for (auto& [id, session] : sessions_) {
    if (session.pinned || !Idle(session) || SecondsSince(session.used) < idle_seconds) continue;
    StartSaveJob(session, [this, id = id](const absl::Status& status, StoreJob& job) {
      OnIdleSaved(id, status, status.ok() ? job.save->bytes_total() : 0);
    });
  }
}

void Sessions::Pin(const CallPtr& call, const std::string& id, bool pinned, const Viewed& done) {
  absl::StatusOr<NamedSession*> found = Find(id);
  const absl::Status status = found.ok() ? Admit((*found)->owner) : found.status();
  if (!status.ok()) return done(status);
  WhenFree(**found, call, Turn::kReads, [this, id, pinned, done](const absl::Status& free) {
    if (!free.ok()) return done(free);
    NamedSession& session = *Lookup(id);
    session.pinned = pinned;
    log_.Event(pinned ? "session pinned" : "session no more pinned", {{"session", id}});
    done(View(session));
  });
}

void Sessions::OnIdleSaved(const std::string& id, const absl::Status& status, int64_t bytes) {
  NamedSession* session = Lookup(id);
  if (session == nullptr) return;
  if (!status.ok()) {
    session->used = Clock::now();  // tried again after another idle time
    return;
  }
  // A call may have come meanwhile. An upload keeps its text here and may arrive beside a session that is moved out.
  if (session->pinned || !Free(*session, Turn::kChanges) || !session->questions.empty() || !session->waiting.empty())
    return;
  session->moved_tokens = Tokens(*session);
  engine_.CloseSession(session->session).IgnoreError();
  session->state.To(Place::kMovedOut);
  session->session = 0;
  store_->Do([s = store_, id] { s->Forget(id); });
  log_.Event("session moved out", {{"session", id}, {"bytes", bytes}});
}

bool Sessions::Tick() {
  std::deque<std::function<void()>> due;
  due.swap(later_);
  for (auto& closure : due) closure();
  if (store_ != nullptr) store_->Deliver();
  std::vector<std::string> rewinds;
  for (auto& [id, session] : sessions_) {  // nothing tells when a question has its fork
    if (!session.waiting.empty() && session.waiting.front().turn == Turn::kRewinds) rewinds.push_back(id);
  }
  for (const std::string& id : rewinds) RunWaiting(id);
  // Jobs get about as much time as the engine's steps, so that neither starves the other.
  const double slice = std::min(options_.job_seconds, engine_.counted().last_step_seconds);
  for (const Clock::time_point begun = Clock::now(); !jobs_.empty();) {
    if (!RunJob()) break;
    if (!later_.empty() || SecondsSince(begun) >= slice) break;
  }
  if (SecondsSince(last_upload_look_) > std::min(1.0, options_.upload_seconds / 4)) {
    last_upload_look_ = Clock::now();
    DropIdleUploads();
  }
  if (store_ != nullptr && options_.idle_seconds > 0 && SecondsSince(last_idle_look_) > 0.5) {
    last_idle_look_ = Clock::now();
    MoveOutIdle(options_.idle_seconds);
  }
  return !later_.empty() || (store_ != nullptr && store_->due()) ||
         std::any_of(jobs_.begin(), jobs_.end(), [](const StoreJob& job) { return !job.waits(); });
}

void Sessions::StartDraining() {
  draining_ = true;
  for (auto& [id, session] : sessions_) {
    if (session.state.reading() && session.append.request != 0) engine_.Cancel(session.append.request).IgnoreError();
  }
}

bool Sessions::Quiet() const {
  return jobs_.empty() && later_.empty() && stats().calls == 0 && (store_ == nullptr || store_->quiet());
}

void Sessions::StopDraining() { draining_ = false; }

void Sessions::SaveAll() {
  saved_all_ = {};
  if (store_ == nullptr) return;
  for (auto& [id, session] : sessions_) {
    if (session.state.place() != Place::kOpen) continue;
    StartSaveJob(session, [this, id = id](const absl::Status& status, StoreJob&) {
      if (status.ok()) {
        ++saved_all_.saved;
      } else {
        saved_all_.failed.emplace_back(id, status);
      }
    });
  }
}

}  // namespace duo
