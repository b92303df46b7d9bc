// Saves and restores: jobs of the store, which run one part at a time between the engine's steps.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "launcher/serve/sessions/sessions.h"
#include "runtime/saved/session_names.h"

namespace duo {

SessionManifest Sessions::MetaOf(const NamedSession& session, bool open) const {
  SessionManifest meta;
  meta.max_tokens = session.max_tokens;
  meta.reserved_tokens = session.reserved_tokens;
  meta.owner = session.owner;
  meta.durable = session.durable;
  meta.pinned = session.pinned;
  meta.open = open;
  meta.text = session.text;
  if (session.state.append() == AppendPhase::kNone) return meta;
  const Append& append = session.append;
  const bool done = AllRead(session);
  if (done && append.id.empty()) return meta;
  meta.append = SavedAppend{append.id, append.received_bytes, append.start, append.total, done, {}, {}};
  if (!done) meta.append->tokens = append.tokens;
  if (!done) meta.append->before = append.before;
  return meta;
}

void Sessions::StartSaveJob(NamedSession& session, JobDone done) {
  const std::string id = session.id;
  StoreJob job;
  job.id = id;
  job.begun = Clock::now();
  absl::StatusOr<std::unique_ptr<SaveJob>> save =
      store_->StartSave(id, session.session, MetaOf(session, true), session.replaces);
  if (!save.ok()) {
    log_.Warn("save failed", {{"session", id}, {"status", std::string(save.status().message())}});
    auto failed = std::make_shared<StoreJob>(std::move(job));
    return Later([status = save.status(), done = std::move(done), failed] { done(status, *failed); });
  }
  job.save = std::move(*save);
  session.state.To(Place::kSaving);
  job.done = [this, id, done = std::move(done)](const absl::Status& status, StoreJob& finished) {
    if (NamedSession* still = Lookup(id); still != nullptr) {
      still->state.To(Place::kOpen);
      if (status.ok()) still->durable_tokens = finished.save->tokens();
      if (status.ok()) still->replaces = false;
    }
    if (status.ok()) {
      stats_.saved_bytes += finished.save->bytes_written();
    } else {
      log_.Warn("save failed", {{"session", id}, {"status", std::string(status.message())}});
    }
    done(status, finished);
    RunWaiting(id);
  };
  jobs_.push_back(std::move(job));
}

void Sessions::StartRestoreJob(NamedSession& session) {
  const std::string id = session.id;
  StoreJob job;
  job.id = id;
  job.begun = Clock::now();
  absl::StatusOr<std::unique_ptr<RestoreJob>> restore = store_->StartRestore(id, session.max_tokens);
  job.done = [this, id](const absl::Status& status, StoreJob& finished) { OnRestored(id, status, finished); };
  session.state.To(Place::kRestoring);
  if (!restore.ok()) {
    auto failed = std::make_shared<StoreJob>(std::move(job));
    return Later([status = restore.status(), failed] { failed->done(status, *failed); });
  }
  job.restore = std::move(*restore);
  jobs_.push_back(std::move(job));
}

void Sessions::OnRestored(const std::string& id, const absl::Status& status, StoreJob& job) {
  NamedSession* session = Lookup(id);
  if (session == nullptr) return;
  if (!status.ok()) {
    log_.Warn("restore failed", {{"session", id}, {"status", std::string(status.message())}});
    std::deque<WaitingCall> waiting = std::exchange(session->waiting, {});
    EndAppend(id, status);
    session->state.To(Place::kMovedOut);
    for (WaitingCall& w : waiting) w.run(status);
    return;
  }
  const SessionManifest& manifest = job.restore->manifest();
  session->state.To(Place::kOpen);
  session->session = job.restore->session();
  LetMatch(*session);
  session->used = Clock::now();
  session->max_tokens = manifest.max_tokens;
  session->durable_tokens = manifest.tokens;
  session->text = manifest.text;
  stats_.restored_bytes += job.restore->bytes_read();
  const double seconds = SecondsSince(job.begun);
  log_.Event(
      "session restored",
      {{"session", id}, {"tokens", manifest.tokens}, {"bytes", job.restore->bytes_read()}, {"seconds", seconds}});
  if (manifest.append.has_value()) AdoptAppend(*session, *manifest.append);
  const bool rewinding = !session->waiting.empty() && session->waiting.front().turn == Turn::kRewinds;
  if (session->state.append() == AppendPhase::kStopped && session->durable && !rewinding) {  // a crash interrupted it
    session->state.To(AppendPhase::kReading);
  }
  if (!session->state.reading()) return RunWaiting(id);
  session->append.begun = Clock::now();
  session->append.begun_at = Tokens(*session) - session->append.start;
  ReadNext(id);
}

// The append as it is on disk: its phase where nothing is known of it, its tokens where it goes on.
void Sessions::AdoptAppend(NamedSession& session, const SavedAppend& saved) {
  Append& append = session.append;
  append.id = saved.id;
  append.received_bytes = saved.received_bytes;
  append.start = saved.start;
  append.total = saved.total;
  append.tokens = saved.tokens;
  append.before = saved.before;
  if (session.state.append() != AppendPhase::kNone) return;
  session.state.To(saved.done ? AppendPhase::kDone : AppendPhase::kStopped);
}

SaveDone Sessions::DoneOf(const std::string& id, const absl::Status& status, const StoreJob& job) const {
  SaveDone done;
  done.status = status;
  done.seconds = SecondsSince(job.begun);
  if (auto found = sessions_.find(id); found != sessions_.end()) done.session = View(found->second);
  if (job.save != nullptr) {
    done.bytes_moved = job.save->bytes_written();
    done.bytes_total = job.save->bytes_total();
  } else if (job.restore != nullptr) {
    done.bytes_moved = job.restore->bytes_read();
  }
  return done;
}

static void Refuse(const Sessions::Saved& done, const absl::Status& status) {
  SaveDone refused;
  refused.status = status;
  done(refused);
}

void Sessions::Save(const CallPtr& call, const std::string& id, const Saved& done) {
  if (store_ == nullptr) return Refuse(done, absl::FailedPreconditionError("this server has no --save-dir"));
  absl::StatusOr<NamedSession*> found = Find(id);
  absl::Status status = found.ok() ? Admit((*found)->owner) : found.status();
  if (!status.ok()) return Refuse(done, status);
  WhenFree(**found, call, Turn::kChanges, [this, id, done, call](const absl::Status& free) {
    if (!free.ok()) return Refuse(done, free);
    StartSaveJob(*Lookup(id), [this, id, done, call](const absl::Status& s, StoreJob& job) {
      const SaveDone result = DoneOf(id, s, job);
      if (s.ok()) {
        log_.Event("session saved", {{"session", id},
                                     {"request", call->request},
                                     {"trace", call->trace},
                                     {"bytes", result.bytes_moved},
                                     {"seconds", result.seconds}});
      }
      done(result);
    });
  });
}

// The id that the restored session gets.
absl::StatusOr<std::string> Sessions::CheckRestore(const std::string& id, const std::string& new_id,
                                                   int64_t max_tokens) {
  if (store_ == nullptr) return absl::FailedPreconditionError("this server has no --save-dir");
  const absl::StatusOr<SessionView> view = Get(id);
  if (!view.ok()) return view.status();
  const bool renamed = !new_id.empty() && new_id != id;
  if (!renamed && (Lookup(id) != nullptr || taken_.count(id) != 0)) {
    return absl::AlreadyExistsError(absl::StrCat(
        "there is a session ", id, " already",
        view->residence == Residence::kMovedOut ? ": it is moved out, and the next call on it brings it back" : ""));
  }
  if (closing_.count(id) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("session ", id, " is still being closed; try again"));
  }
  absl::StatusOr<std::string> name = renamed ? NewId(new_id) : absl::StatusOr<std::string>(id);
  if (!name.ok()) return name;
  const std::string owner = OwnerOf(id).value_or(kDefaultOwner);
  if (absl::Status s = Admit(owner); !s.ok()) return s;
  if (absl::Status s = CheckCallersSessions(owner); !s.ok()) return s;
  if (max_tokens != 0) {
    if (absl::Status s = CheckMaxTokens(max_tokens); !s.ok()) return s;
  }
  return name;
}

void Sessions::Restore(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens,
                       const Saved& done) {
  if (store_ == nullptr || !ValidSessionId(id)) return Refuse(done, CheckRestore(id, new_id, max_tokens).status());
  // Another server may just have saved it.
  store_->Do([s = store_, id] { s->Find(id).status().IgnoreError(); },
             [=, this] { RestoreFound(call, id, new_id, max_tokens, done); });
}

void Sessions::RestoreFound(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens,
                            const Saved& done) {
  if (call->cancelled) return Refuse(done, absl::CancelledError("the call was cancelled"));
  const absl::StatusOr<std::string> name = CheckRestore(id, new_id, max_tokens);
  if (!name.ok()) return Refuse(done, name.status());
  const std::optional<SavedSession> saved = store_->Known(id);
  if (!saved.has_value()) return Refuse(done, absl::NotFoundError(absl::StrCat("session ", id, " is not saved")));
  if (!saved->usable.ok()) return Refuse(done, saved->usable);
  const SessionManifest& manifest = *saved->manifest;
  if (absl::Status s = CheckCallersTokens(manifest.owner, manifest.tokens); !s.ok()) return Refuse(done, s);
  absl::StatusOr<std::unique_ptr<RestoreJob>> restore = store_->StartRestore(id, max_tokens, *name != id);
  if (!restore.ok()) return Refuse(done, restore.status());
  NamedSession& session = Add(*name, manifest.owner, Place::kRestoring);
  session.max_tokens = manifest.max_tokens;
  session.reserved_tokens = std::min(manifest.reserved_tokens, manifest.max_tokens);
  session.moved_tokens = manifest.tokens;
  session.durable = manifest.durable && *name == id;
  session.pinned = manifest.pinned && *name == id;
  session.text = manifest.text;
  StoreJob job;
  job.id = *name;
  job.begun = Clock::now();
  job.restore = std::move(*restore);
  call->cancel = [this, name = *name] { Close(name, false); };
  job.done = [this, call, name = *name, own = *name == id, done](const absl::Status& s, StoreJob& finished) {
    call->cancel = nullptr;
    const bool closed = Lookup(name) == nullptr;
    OnRestored(name, s, finished);
    const SaveDone result = DoneOf(name, s, finished);
    if (!s.ok() && !closed) {
      sessions_.erase(name);
      if (own) Release(name);
    }
    done(result);
  };
  jobs_.push_back(std::move(job));
}

// Goes on with one that need not wait for a disk; false: all of them do.
bool Sessions::RunJob() {
  const auto next = std::find_if(jobs_.begin(), jobs_.end(), [](const StoreJob& job) { return !job.waits(); });
  if (next == jobs_.end()) return false;
  StoreJob job = std::move(*next);
  jobs_.erase(next);
  if (job.dropped) {
    if (!(job.save != nullptr ? job.save->Drop() : job.restore->Drop())) {
      jobs_.push_back(std::move(job));
      return true;
    }
    job.save = nullptr;  // undoes what it had begun
    job.restore = nullptr;
    CloseOnDisk(job.id);
    return true;
  }
  const absl::StatusOr<bool> more = job.save != nullptr ? job.save->Step() : job.restore->Step();
  if (more.ok() && !*more) {
    jobs_.push_back(std::move(job));  // others take their turn
    return true;
  }
  auto done = std::move(job.done);
  if (more.ok()) {
    done(more.status(), job);
    return true;
  }
  job.save = nullptr;  // undoes what it had begun, on the disk's thread
  job.restore = nullptr;
  auto failed = std::make_shared<StoreJob>(std::move(job));
  // Whoever hears that it failed finds nothing of it on disk.
  store_->Do([] {}, [status = more.status(), done = std::move(done), failed] { done(status, *failed); });
  return true;
}

// The session's jobs end with this status; they go as soon as nothing of theirs is at the disk.
void Sessions::DropJobs(const std::string& id, const absl::Status& status) {
  for (size_t i = 0; i < jobs_.size(); ++i) {
    if (jobs_[i].id != id || jobs_[i].dropped) continue;
    jobs_[i].dropped = true;
    auto done = std::move(jobs_[i].done);
    done(status, jobs_[i]);
  }
}

}  // namespace duo
