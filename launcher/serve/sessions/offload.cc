// Sessions that come and go: saving, restoring, moving idle ones out, draining. Jobs run one part at a time between the
// engine's steps.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "launcher/serve/sessions/sessions.h"

namespace duo {
namespace {

constexpr double kJobSeconds = 0.1;  // of one Tick at most, give or take a part

double SecondsSince(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

}  // namespace

SessionManifest Sessions::MetaOf(const Held& held, bool open) const {
  SessionManifest meta;
  meta.max_tokens = held.max_tokens;
  meta.durable = held.durable;
  meta.open = open;
  if (held.append.has_value() && !(held.append->done && held.append->id.empty())) {
    const Append& a = *held.append;
    meta.append = SavedAppend{a.id, a.received_bytes, a.start, a.total, a.done, {}};
    if (!a.done) meta.append->tokens = a.tokens;
  }
  return meta;
}

void Sessions::StartSaveJob(Held& held, std::function<void(const absl::Status&, Job&)> done) {
  const std::string id = held.id;
  Job job;
  job.id = id;
  job.begun = Clock::now();
  absl::StatusOr<std::unique_ptr<SaveJob>> save = store_->StartSave(id, held.session, MetaOf(held, true));
  if (!save.ok()) {
    log_.Event("save failed", {{"session", id}, {"status", std::string(save.status().message())}});
    auto failed = std::make_shared<Job>(std::move(job));
    return Later([status = save.status(), done = std::move(done), failed] { done(status, *failed); });
  }
  job.save = std::move(*save);
  ++held.saving;
  job.done = [this, id, done = std::move(done)](const absl::Status& status, Job& finished) {
    auto found = held_.find(id);
    if (found != held_.end()) {
      --found->second.saving;
      if (status.ok()) found->second.durable_tokens = finished.save->tokens();
    }
    if (status.ok()) {
      stats_.saved_bytes += finished.save->bytes_written();
    } else {
      log_.Event("save failed", {{"session", id}, {"status", std::string(status.message())}});
    }
    done(status, finished);
    RunWaiting(id);
  };
  jobs_.push_back(std::move(job));
}

void Sessions::StartRestoreJob(Held& held) {
  const std::string id = held.id;
  Job job;
  job.id = id;
  job.begun = Clock::now();
  absl::StatusOr<std::unique_ptr<RestoreJob>> restore = store_->StartRestore(id, held.max_tokens);
  job.done = [this, id](const absl::Status& status, Job& finished) { Restored(id, status, finished); };
  ++held.restoring;
  if (!restore.ok()) {
    auto failed = std::make_shared<Job>(std::move(job));
    return Later([status = restore.status(), failed] { failed->done(status, *failed); });
  }
  job.restore = std::move(*restore);
  jobs_.push_back(std::move(job));
}

void Sessions::Restored(const std::string& id, const absl::Status& status, Job& job) {
  auto found = held_.find(id);
  if (found == held_.end()) return;
  Held& held = found->second;
  --held.restoring;
  if (!status.ok()) {
    log_.Event("restore failed", {{"session", id}, {"status", std::string(status.message())}});
    std::deque<Held::Waiting> waiting = std::move(held.waiting);
    held.waiting.clear();
    if (held.append.has_value() && held.append->running) EndAppend(id, status);
    for (auto& w : waiting) w.run(status);
    return;
  }
  held.session = job.restore->session();
  held.used = Clock::now();
  held.durable_tokens = job.restore->manifest().tokens;
  stats_.restored_bytes += job.restore->bytes_read();
  const double seconds = SecondsSince(job.begun);
  log_.Event("session restored", {{"session", id},
                                  {"tokens", job.restore->manifest().tokens},
                                  {"bytes", job.restore->bytes_read()},
                                  {"seconds", seconds}});
  if (const std::optional<SavedAppend>& saved = job.restore->manifest().append; saved.has_value()) {
    if (!held.append.has_value()) held.append.emplace();
    Append& append = *held.append;
    append.id = saved->id;
    append.received_bytes = saved->received_bytes;
    append.start = saved->start;
    append.total = saved->total;
    append.done = saved->done;
    append.tokens = saved->tokens;
    if (!append.done && (held.durable || append.running)) {  // a crash or a drain interrupted it
      append.running = true;
      append.begun = Clock::now();
      append.begun_at = Tokens(held) - append.start;
      return FeedNext(id);
    }
  }
  RunWaiting(id);
}

void Sessions::Recover() {
  if (store_ == nullptr) return;
  for (const SessionStore::Listed& listed : store_->List()) {
    if (!listed.manifest.ok()) {
      log_.Event("saved session is unusable",
                 {{"session", listed.id}, {"status", std::string(listed.manifest.status().message())}});
      continue;
    }
    const SessionManifest& m = *listed.manifest;
    if (!m.open) continue;
    Held& held = held_[listed.id];
    held.id = listed.id;
    held.max_tokens = std::min(m.max_tokens, std::max(options_.max_session_tokens, m.tokens));
    held.moved_tokens = held.durable_tokens = m.tokens;
    held.durable = m.durable;
    held.used = Clock::now();
    if (m.append.has_value()) {
      Append& append = held.append.emplace();
      append.id = m.append->id;
      append.received_bytes = m.append->received_bytes;
      append.start = m.append->start;
      append.total = m.append->total;
      append.done = m.append->done;
      append.running = held.durable && !append.done;
    }
    log_.Event("session found", {{"session", listed.id}, {"tokens", m.tokens}});
    if (held.append.has_value() && held.append->running) StartRestoreJob(held);
  }
}

SaveDone Sessions::DoneOf(const std::string& id, const absl::Status& status, const Job& job) const {
  SaveDone done;
  done.status = status;
  done.seconds = SecondsSince(job.begun);
  if (auto held = held_.find(id); held != held_.end()) done.session = View(held->second);
  if (job.save != nullptr) {
    done.bytes_moved = job.save->bytes_written();
    done.bytes_total = job.save->bytes_total();
  } else if (job.restore != nullptr) {
    done.bytes_moved = job.restore->bytes_read();
  }
  return done;
}

void Sessions::Save(const CallPtr& call, const std::string& id, std::function<void(const SaveDone&)> done) {
  auto refuse = [done](const absl::Status& status) {
    SaveDone refused;
    refused.status = status;
    done(refused);
  };
  if (store_ == nullptr) return refuse(absl::FailedPreconditionError("this server has no --save-dir"));
  absl::StatusOr<Held*> found = Find(id);
  absl::Status status = found.ok() ? Admit(id) : found.status();
  if (!status.ok()) return refuse(status);
  WhenFree(**found, call, false, [this, id, done, refuse](const absl::Status& free) {
    if (!free.ok()) return refuse(free);
    StartSaveJob(held_.at(id), [this, id, done](const absl::Status& s, Job& job) {
      const SaveDone result = DoneOf(id, s, job);
      if (s.ok()) {
        log_.Event("session saved", {{"session", id}, {"bytes", result.bytes_moved}, {"seconds", result.seconds}});
      }
      done(result);
    });
  });
}

void Sessions::Restore(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens,
                       std::function<void(const SaveDone&)> done) {
  auto refuse = [done](const absl::Status& status) {
    SaveDone refused;
    refused.status = status;
    done(refused);
  };
  if (store_ == nullptr) return refuse(absl::FailedPreconditionError("this server has no --save-dir"));
  if (absl::StatusOr<SessionView> view = Get(id); !view.ok()) return refuse(view.status());
  absl::StatusOr<std::string> name = NewId(new_id.empty() ? id : new_id);
  absl::Status status = name.ok() ? Admit(id) : name.status();
  if (status.ok() && *name != id && store_->Exists(*name)) {
    status = absl::AlreadyExistsError(absl::StrCat("there is a saved session ", *name));
  }
  if (status.ok() && (max_tokens < 0 || max_tokens > options_.max_session_tokens)) {
    status = absl::InvalidArgumentError(
        absl::StrCat("max_tokens must be 1 to ", options_.max_session_tokens, " on this server, found ", max_tokens));
  }
  if (!status.ok()) return refuse(status);
  absl::StatusOr<std::unique_ptr<RestoreJob>> restore = store_->StartRestore(id, max_tokens);
  if (!restore.ok()) return refuse(restore.status());
  Held& held = held_[*name];
  held.id = *name;
  held.max_tokens = (*restore)->manifest().max_tokens;
  held.moved_tokens = (*restore)->manifest().tokens;
  held.durable = (*restore)->manifest().durable && *name == id;
  held.restoring = 1;
  held.used = Clock::now();
  Job job;
  job.id = *name;
  job.begun = Clock::now();
  job.restore = std::move(*restore);
  call->cancel = [this, name = *name] { Close(name, false).IgnoreError(); };
  job.done = [this, call, name = *name, done](const absl::Status& s, Job& finished) {
    call->cancel = nullptr;
    Restored(name, s, finished);
    const SaveDone result = DoneOf(name, s, finished);
    if (!s.ok()) held_.erase(name);
    done(result);
  };
  jobs_.push_back(std::move(job));
}

void Sessions::RunJob() {
  Job& job = jobs_.front();
  absl::StatusOr<bool> more = job.save != nullptr ? job.save->Step() : job.restore->Step();
  if (more.ok() && !*more) {
    // Others take their turn.
    std::rotate(jobs_.begin(), jobs_.begin() + 1, jobs_.end());
    return;
  }
  Job finished = std::move(job);
  jobs_.pop_front();
  auto done = std::move(finished.done);
  done(more.status(), finished);
}

void Sessions::MoveOutIdle() {
  for (auto& [id, held] : held_) {
    if (!Free(held, false) || held.calls > 0 || !held.waiting.empty() || held.upload != nullptr) continue;
    if (SecondsSince(held.used) < options_.idle_seconds) continue;
    StartSaveJob(held, [this, id = id](const absl::Status& status, Job& job) {
      auto found = held_.find(id);
      if (found == held_.end()) return;
      Held& h = found->second;
      if (!status.ok()) {
        h.used = Clock::now();  // tried again after another idle time
        return;
      }
      if (!Free(h, false) || h.calls > 0 || !h.waiting.empty()) return;  // it woke up meanwhile
      h.moved_tokens = Tokens(h);
      engine_.CloseSession(h.session).IgnoreError();
      h.session = 0;
      store_->Forget(id);
      log_.Event("session moved out", {{"session", id}, {"bytes", job.save->bytes_total()}});
    });
  }
}

bool Sessions::Tick() {
  std::deque<std::function<void()>> due;
  due.swap(later_);
  for (auto& closure : due) closure();
  // Jobs get about as much time as the engine's steps, so that neither starves the other.
  const double slice = std::min(kJobSeconds, engine_.stats().last_step_seconds);
  for (const Clock::time_point begun = Clock::now(); !jobs_.empty();) {
    RunJob();
    if (!later_.empty() || SecondsSince(begun) >= slice) break;
  }
  if (store_ != nullptr && options_.idle_seconds > 0 && SecondsSince(last_idle_look_) > 0.5) {
    last_idle_look_ = Clock::now();
    MoveOutIdle();
  }
  return !jobs_.empty() || !later_.empty();
}

void Sessions::StartDraining() {
  draining_ = true;
  for (auto& [id, held] : held_) {
    if (held.append.has_value() && held.append->running && held.append->request != 0) {
      engine_.Cancel(held.append->request).IgnoreError();
    }
  }
}

void Sessions::CancelAll() {
  for (auto& [id, held] : held_) {
    std::deque<Held::Waiting> waiting = std::move(held.waiting);
    held.waiting.clear();
    for (auto& w : waiting) w.run(absl::UnavailableError("the server is draining"));
    const std::vector<RequestId> questions = held.questions;
    for (RequestId question : questions) engine_.Cancel(question).IgnoreError();
  }
}

bool Sessions::Quiet() const { return jobs_.empty() && later_.empty() && stats().calls == 0; }

int Sessions::SaveAll() {
  int started = 0;
  if (store_ == nullptr) return 0;
  for (auto& [id, held] : held_) {
    if (held.session == 0 || held.restoring > 0) continue;
    ++started;
    StartSaveJob(held, [](const absl::Status&, Job&) {});
  }
  return started;
}

}  // namespace duo
