#include "launcher/serve/sessions/sessions.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/splitmix64.h"

namespace duo {
namespace {

constexpr size_t kLongestId = 64;

double SecondsSince(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

bool ValidId(const std::string& id) {
  if (id.empty() || id.size() > kLongestId || id[0] == '.') return false;
  return std::all_of(id.begin(), id.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; });
}

absl::Status BadId(const std::string& id) {
  return absl::InvalidArgumentError(
      absl::StrFormat("a session id has 1 to %d of A-Z a-z 0-9 . _ - and does not begin with a dot; found %d bytes",
                      kLongestId, id.size()));
}

}  // namespace

Sessions::Sessions(const SessionsOptions& options, Engine& engine, SessionStore* store, const Log& log)
    : options_(options), engine_(engine), store_(store), log_(log) {
  std::random_device random;  // ids of different runs must differ: saved sessions outlive them
  next_id_ = uint64_t{random()} << 32 | random();
}

Sessions::~Sessions() = default;

absl::StatusOr<Sessions::Held*> Sessions::Find(const std::string& id) {
  if (!ValidId(id)) return BadId(id);
  auto found = held_.find(id);
  if (found != held_.end()) return &found->second;
  if (store_ != nullptr && store_->Exists(id)) {
    return absl::NotFoundError(absl::StrCat("session ", id, " is not open; it is saved, and Restore opens it"));
  }
  return absl::NotFoundError(absl::StrCat("there is no session ", id));
}

absl::StatusOr<std::string> Sessions::NewId(const std::string& wanted) {
  std::string id = wanted;
  if (id.empty()) id = absl::StrFormat("s-%016x", SplitMix64(next_id_++));
  if (!ValidId(id)) return BadId(id);
  if (held_.count(id) != 0) return absl::AlreadyExistsError(absl::StrCat("there is a session ", id, " already"));
  return id;
}

absl::Status Sessions::Admit(const std::string&) {
  if (draining_) return absl::UnavailableError("the server is draining; try another one");
  const int calls = stats().calls;
  if (calls >= options_.max_waiting) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d calls wait or run, the limit is %d (--max-queue); try again later", calls, options_.max_waiting));
  }
  return absl::OkStatus();
}

int64_t Sessions::Tokens(const Held& held) const {
  if (held.session == 0) return held.moved_tokens;
  absl::StatusOr<SessionInfo> info = engine_.Get(held.session);
  return info.ok() ? info->tokens : held.moved_tokens;
}

SessionView Sessions::View(const Held& held) const {
  SessionView view;
  view.id = held.id;
  view.tokens = Tokens(held);
  view.max_tokens = held.max_tokens;
  view.kv_bytes = engine_.KvBytes(view.tokens);
  view.durable_tokens = held.durable_tokens;
  view.residence = held.session == 0 ? Residence::kMovedOut : Residence::kOpen;
  view.durable = held.durable;
  view.pending = held.calls + static_cast<int>(held.waiting.size()) + held.saving + held.restoring +
                 (held.append.has_value() && held.append->running ? 1 : 0);
  view.idle_seconds = SecondsSince(held.used);
  if (held.append.has_value() && !held.append->id.empty()) view.append = ViewOf(held, *held.append);
  if (held.upload != nullptr && !held.upload_id.empty()) {
    std::lock_guard lock(held.upload->mutex);
    view.append = AppendView{held.upload_id, held.upload->received(), 0, 0, false, false};
  }
  return view;
}

absl::StatusOr<SessionView> Sessions::Create(const std::string& wanted, int64_t max_tokens, bool durable) {
  if (absl::Status s = Admit(wanted); !s.ok()) return s;
  absl::StatusOr<std::string> id = NewId(wanted);
  if (!id.ok()) return id.status();
  if (store_ != nullptr && store_->Exists(*id)) {
    return absl::AlreadyExistsError(absl::StrCat("there is a saved session ", *id, "; Restore opens it"));
  }
  if (durable && store_ == nullptr) {
    return absl::FailedPreconditionError("a durable session needs a server with --save-dir");
  }
  if (max_tokens == 0) max_tokens = options_.max_session_tokens;
  if (max_tokens < 1 || max_tokens > options_.max_session_tokens) {
    return absl::InvalidArgumentError(absl::StrFormat("max_tokens must be 1 to %d on this server, found %d",
                                                      options_.max_session_tokens, max_tokens));
  }
  absl::StatusOr<SessionId> session = engine_.CreateSession(max_tokens);
  if (!session.ok()) return session.status();
  Held& held = held_[*id];
  held.id = *id;
  held.session = *session;
  held.max_tokens = max_tokens;
  held.durable = durable;
  held.used = Clock::now();
  log_.Event("session created", {{"session", *id}, {"max_tokens", max_tokens}});
  return View(held);
}

void Sessions::Fork(const CallPtr& call, const std::string& id, const std::string& wanted, int64_t max_tokens,
                    Viewed done) {
  absl::StatusOr<Held*> found = Find(id);
  absl::Status status = found.ok() ? Admit(id) : found.status();
  if (!status.ok()) return done(status);
  WhenFree(**found, call, true, [this, id, wanted, max_tokens, done](const absl::Status& free) {
    if (!free.ok()) return done(free);
    const Held& parent = held_.at(id);
    absl::StatusOr<std::string> new_id = NewId(wanted);
    if (!new_id.ok()) return done(new_id.status());
    const int64_t room = max_tokens == 0 ? parent.max_tokens : max_tokens;
    if (room < 1 || room > options_.max_session_tokens) {
      return done(absl::InvalidArgumentError(
          absl::StrFormat("max_tokens must be 1 to %d on this server, found %d", options_.max_session_tokens, room)));
    }
    absl::StatusOr<SessionId> fork = engine_.Fork(parent.session, room);
    if (!fork.ok()) return done(fork.status());
    Held& held = held_[*new_id];
    held.id = *new_id;
    held.session = *fork;
    held.max_tokens = room;
    held.used = Clock::now();
    done(View(held));
  });
}

void Sessions::Rewind(const CallPtr& call, const std::string& id, int64_t tokens, Viewed done) {
  absl::StatusOr<Held*> found = Find(id);
  if (!found.ok()) return done(found.status());
  Held& held = **found;
  if (held.append.has_value() && held.append->running) {
    return done(
        absl::FailedPreconditionError(absl::StrCat("session ", id, " is being appended to; cancel that first")));
  }
  // Rewinding is the way out of an append that was not finished: it must not wait for one.
  const bool unfinished = held.append.has_value() && !held.append->done;
  auto run = [this, id, tokens, done](const absl::Status& free) {
    if (!free.ok()) return done(free);
    Held& h = held_.at(id);
    if (absl::Status s = engine_.Rewind(h.session, tokens); !s.ok()) return done(s);
    if (h.append.has_value() && tokens < h.append->start + h.append->total) h.append.reset();
    if (h.append.has_value() && !h.append->done) h.append.reset();
    h.durable_tokens = std::min(h.durable_tokens, tokens);
    if (store_ != nullptr) store_->Rewound(id, tokens);
    done(View(h));
    RunWaiting(id);
  };
  if (unfinished && held.session != 0 && held.saving == 0) return run(absl::OkStatus());
  WhenFree(held, call, false, std::move(run));
}

absl::StatusOr<SessionView> Sessions::Get(const std::string& id) const {
  auto found = held_.find(id);
  if (found != held_.end()) return View(found->second);
  if (!ValidId(id)) return BadId(id);
  if (store_ == nullptr || !store_->Exists(id)) return absl::NotFoundError(absl::StrCat("there is no session ", id));
  absl::StatusOr<SessionManifest> manifest = store_->Find(id);
  if (!manifest.ok()) return manifest.status();
  SessionView view;
  view.id = id;
  view.tokens = view.durable_tokens = manifest->tokens;
  view.max_tokens = manifest->max_tokens;
  view.kv_bytes = engine_.KvBytes(view.tokens);
  view.residence = Residence::kSaved;
  view.durable = manifest->durable;
  return view;
}

std::vector<SessionView> Sessions::List() const {
  std::map<std::string, SessionView> all;
  for (const auto& [id, held] : held_) all[id] = View(held);
  if (store_ != nullptr) {
    for (const SessionStore::Listed& listed : store_->List()) {
      if (all.count(listed.id) != 0 || !listed.manifest.ok()) continue;
      if (absl::StatusOr<SessionView> view = Get(listed.id); view.ok()) all[listed.id] = *view;
    }
  }
  std::vector<SessionView> views;
  for (auto& [id, view] : all) views.push_back(std::move(view));
  return views;
}

absl::Status Sessions::Close(const std::string& id, bool delete_saved) {
  auto found = held_.find(id);
  const bool saved = store_ != nullptr && ValidId(id) && store_->Exists(id);
  if (found == held_.end() && !(saved && delete_saved)) return Find(id).status();
  if (found != held_.end()) {
    Held& held = found->second;
    const absl::Status closed = absl::CancelledError(absl::StrCat("session ", id, " was closed"));
    std::deque<Held::Waiting> waiting = std::move(held.waiting);
    held.waiting.clear();
    std::vector<Job> jobs;
    for (auto job = jobs_.begin(); job != jobs_.end();) {
      if (job->id == id) {
        jobs.push_back(std::move(*job));
        job = jobs_.erase(job);
      } else {
        ++job;
      }
    }
    if (held.append.has_value() && held.append->call != nullptr && held.append->events.on_done) {
      Append append = std::move(*held.append);
      held.append.reset();
      append.result.status = closed;
      append.call->cancel = nullptr;
      append.result.session = View(held);
      append.events.on_done(append.result);
    }
    const SessionId session = held.session;
    held_.erase(found);
    for (auto& w : waiting) w.run(closed);
    for (Job& job : jobs) job.done(closed, job);
    jobs.clear();  // undoes what they had begun
    if (session != 0) engine_.CloseSession(session).IgnoreError();
    if (store_ != nullptr) store_->Forget(id);
  }
  log_.Event("session closed", {{"session", id}});
  if (!saved) return absl::OkStatus();
  return delete_saved ? store_->Delete(id) : store_->SetOpen(id, false);
}

bool Sessions::Free(const Held& held, bool reads) const {
  return held.session != 0 && held.restoring == 0 && (reads || held.saving == 0) && held.keeping == 0 &&
         !(held.append.has_value() && held.append->running);
}

void Sessions::WhenFree(Held& held, const CallPtr& call, bool reads, std::function<void(const absl::Status&)> run) {
  held.used = Clock::now();
  held.waiting.push_back({call, reads, std::move(run)});
  if (held.session == 0 && held.restoring == 0) StartRestoreJob(held);
  RunWaiting(held.id);
}

void Sessions::RunWaiting(const std::string& id) {
  while (true) {
    auto found = held_.find(id);
    if (found == held_.end() || found->second.waiting.empty()) return;
    if (!Free(found->second, found->second.waiting.front().reads)) return;
    Held::Waiting next = std::move(found->second.waiting.front());
    found->second.waiting.pop_front();
    if (next.call != nullptr && next.call->cancelled) {
      next.run(absl::CancelledError("the call was cancelled"));
      continue;
    }
    const Held& held = found->second;
    if (held.append.has_value() && !held.append->done) {
      next.run(absl::FailedPreconditionError(absl::StrFormat(
          "append \"%s\" of session %s stopped after %d of %d tokens: repeat it, or rewind the session to %d tokens",
          held.append->id, id, Tokens(held) - held.append->start, held.append->total, held.append->start)));
      continue;
    }
    next.run(absl::OkStatus());
  }
}

void Sessions::Ask(const CallPtr& call, const std::string& id, std::vector<int32_t> tokens,
                   const GenerateParams& params, AskEvents events) {
  auto refuse = [events](const absl::Status& status) {
    RequestResult result;
    result.status = status;
    events.on_done(result, 0);
  };
  absl::StatusOr<Held*> found = Find(id);
  absl::Status status = found.ok() ? Admit(id) : found.status();
  if (!status.ok()) return refuse(status);
  const Clock::time_point asked = Clock::now();
  WhenFree(**found, call, !params.keep, [=, this, tokens = std::move(tokens)](const absl::Status& free) mutable {
    if (!free.ok()) return refuse(free);
    Held& held = held_.at(id);
    const int64_t history = Tokens(held);
    if (history == 0) tokens.insert(tokens.begin(), options_.begin_tokens.begin(), options_.begin_tokens.end());
    const int64_t most = history + static_cast<int64_t>(tokens.size()) + params.max_new_tokens;
    if (most > options_.max_session_tokens) {  // it would wait for room for ever
      return refuse(absl::ResourceExhaustedError(
          absl::StrFormat("session %s holds %d tokens; with the question's %d and an answer of %d that is %d, and this "
                          "server's sequences have at most %d",
                          id, history, tokens.size(), params.max_new_tokens, most, options_.max_session_tokens)));
    }
    const double waited = SecondsSince(asked);
    auto own = std::make_shared<RequestId>(0);
    RequestEvents request;
    request.on_token = events.on_token;
    request.on_done = [=, this](const RequestResult& done) {
      RequestResult result = done;
      result.queue_seconds += waited;
      call->cancel = nullptr;
      if (result.prompt_tokens > 0) stats_.longest_wait = std::max(stats_.longest_wait, result.queue_seconds);
      if (auto still = held_.find(id); still != held_.end()) {
        --still->second.calls;
        std::erase(still->second.questions, *own);
        if (params.keep) --still->second.keeping;
        still->second.used = Clock::now();
        Later([this, id] { RunWaiting(id); });
      }
      events.on_done(result, history);
    };
    absl::StatusOr<RequestId> started = engine_.Ask(held.session, std::move(tokens), params, std::move(request));
    if (!started.ok()) return refuse(started.status());
    *own = *started;
    held.questions.push_back(*started);
    ++held.calls;
    if (params.keep) ++held.keeping;
    call->cancel = [this, request_id = *started] { engine_.Cancel(request_id).IgnoreError(); };
  });
}

void Sessions::Cancel(const CallPtr& call) {
  call->cancelled = true;
  if (call->cancel) {
    auto cancel = std::move(call->cancel);
    call->cancel = nullptr;
    return cancel();
  }
  for (auto& [id, held] : held_) {
    auto found = std::find_if(held.waiting.begin(), held.waiting.end(), [&](const auto& w) { return w.call == call; });
    if (found == held.waiting.end()) continue;
    Held::Waiting waiting = std::move(*found);
    held.waiting.erase(found);
    return waiting.run(absl::CancelledError("the call was cancelled"));
  }
}

SessionsStats Sessions::stats() const {
  SessionsStats stats = stats_;
  for (const auto& [id, held] : held_) {
    ++(held.session == 0 ? stats.moved_out : stats.open);
    stats.calls +=
        held.calls + static_cast<int>(held.waiting.size()) + (held.append.has_value() && held.append->running);
  }
  return stats;
}

}  // namespace duo
