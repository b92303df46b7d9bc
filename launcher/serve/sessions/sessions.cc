// Which sessions there are: their ids, views, beginnings and ends.
#include "launcher/serve/sessions/sessions.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "kernels/base/splitmix64.h"

namespace duo {
namespace {

constexpr size_t kLongestId = 64;

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

// Where the manifest cannot be read nobody but an admin has a right to it.
std::string OwnerIn(const SavedSession& saved) {
  if (!saved.manifest.ok()) return "";
  return saved.manifest->owner.empty() ? kDefaultOwner : saved.manifest->owner;
}

}  // namespace

absl::Status OfSession(const std::string& id, const absl::Status& status) {
  absl::Status named(status.code(), absl::StrCat("session ", id, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& what) { named.SetPayload(type, what); });
  return named;
}

Sessions::Sessions(const SessionsOptions& options, Engine& engine, SessionStore* store, const Log& log)
    : options_(options),
      engine_(engine),
      store_(store),
      log_(log),
      uploads_(options.uploads != nullptr ? options.uploads
                                          : std::make_shared<UploadBudget>(options.max_upload_bytes)) {
  std::random_device random;  // ids of different runs must differ: saved sessions outlive them
  next_id_ = uint64_t{random()} << 32 | random();
}

Sessions::~Sessions() = default;

absl::StatusOr<NamedSession*> Sessions::Find(const std::string& id) {
  if (!ValidId(id)) return BadId(id);
  if (NamedSession* session = Lookup(id); session != nullptr) return session;
  if (store_ != nullptr && store_->Exists(id)) {
    return absl::NotFoundError(absl::StrCat("session ", id, " is not open; it is saved, and Restore opens it"));
  }
  return NoSession(id);
}

absl::Status Sessions::NoSession(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("there is no session ", id));
}

std::optional<std::string> Sessions::OwnerOf(const std::string& id) const {
  if (auto found = sessions_.find(id); found != sessions_.end()) return found->second.owner;
  if (store_ == nullptr || !ValidId(id)) return std::nullopt;
  const std::optional<SavedSession> saved = store_->Known(id);
  return saved.has_value() ? std::optional<std::string>(OwnerIn(*saved)) : std::nullopt;
}

NamedSession* Sessions::Lookup(const std::string& id) {
  auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : &found->second;
}

NamedSession& Sessions::Add(const std::string& id, const std::string& owner, Place first) {
  NamedSession made{.id = id, .state = SessionState(first, &options_.watch), .owner = owner};
  if (owner.empty()) made.owner = kDefaultOwner;
  NamedSession& session = sessions_.emplace(id, std::move(made)).first->second;
  session.used = Clock::now();
  return session;
}

absl::StatusOr<std::string> Sessions::NewId(const std::string& wanted) {
  std::string id = wanted;
  if (id.empty()) id = absl::StrFormat("s-%016x", SplitMix64(next_id_++));
  if (!ValidId(id)) return BadId(id);
  if (Lookup(id) != nullptr || taken_.count(id) != 0) {
    return absl::AlreadyExistsError(absl::StrCat("there is a session ", id, " already"));
  }
  if (closing_.count(id) != 0) {
    return absl::AlreadyExistsError(absl::StrCat("session ", id, " is still being closed; try again"));
  }
  if (store_ != nullptr && store_->Exists(id)) {
    return absl::AlreadyExistsError(absl::StrCat("there is a saved session ", id, "; Restore opens it"));
  }
  return id;
}

absl::Status Sessions::CheckMaxTokens(int64_t max_tokens) const {
  if (max_tokens >= 1 && max_tokens <= options_.max_session_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("max_tokens must be 1 to %d on this server, found %d", options_.max_session_tokens, max_tokens));
}

absl::Status Sessions::CheckReserved(int64_t reserved_tokens, int64_t max_tokens) const {
  if (reserved_tokens >= 0 && reserved_tokens <= max_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "reserved_tokens must be 0 to the session's max_tokens of %d, found %d", max_tokens, reserved_tokens));
}

int64_t Sessions::Tokens(const NamedSession& session) const {
  if (!session.state.in_cache()) return session.moved_tokens;
  absl::StatusOr<SessionInfo> info = engine_.Get(session.session);
  return info.ok() ? info->tokens : session.moved_tokens;
}

SessionView Sessions::View(const NamedSession& session) const {
  const SessionState& state = session.state;
  SessionView view;
  view.id = session.id;
  view.owner = session.owner;
  view.tokens = Tokens(session);
  view.max_tokens = session.max_tokens;
  if (state.in_cache()) {
    const absl::StatusOr<SessionInfo> info = engine_.Get(session.session);
    if (info.ok()) {
      view.reserved_tokens = info->reserved_tokens;
      view.sparse = info->sparse;
    }
  }
  if (!state.in_cache() && store_ != nullptr) {
    const std::optional<SavedSession> saved = store_->Known(session.id);
    if (saved.has_value() && saved->manifest.ok()) view.sparse = saved->manifest->sparse.report;
  }
  view.kv_bytes = engine_.KvBytes(view.tokens);
  view.durable_tokens = session.durable_tokens;
  view.residence = state.in_cache() ? Residence::kOpen : Residence::kMovedOut;
  view.durable = session.durable;
  view.pinned = session.pinned;
  view.pending = static_cast<int>(session.questions.size() + session.waiting.size()) +
                 (state.place() == Place::kSaving || state.place() == Place::kRestoring) + state.reading() +
                 (session.tokenising != 0);
  view.idle_seconds = SecondsSince(session.used);
  view.tail_bytes = session.text.tail_bytes();
  view.chat = session.text.chat;
  view.reads_whole = options_.tokenizer != nullptr && !options_.tokenizer->has_stable_places();
  if (state.append() != AppendPhase::kNone && !session.append.id.empty()) view.append = ViewOfAppend(session);
  if (state.upload() == AppendPhase::kUploading) {
    std::lock_guard lock(session.upload.text->mutex);
    view.append = AppendView{session.upload.id, session.upload.text->received(), 0, 0, false, false};
  }
  return view;
}

absl::StatusOr<SessionView> Sessions::Create(const NewSession& wanted) {
  if (absl::Status s = Admit(wanted.owner); !s.ok()) return s;
  if (absl::Status s = CheckCallersSessions(wanted.owner); !s.ok()) return s;
  absl::StatusOr<std::string> id = NewId(wanted.id);
  if (!id.ok()) return id.status();
  if (wanted.durable && store_ == nullptr) {
    return absl::FailedPreconditionError("a durable session needs a server with --save-dir");
  }
  const int64_t most = wanted.max_tokens == 0 ? options_.max_session_tokens : wanted.max_tokens;
  if (absl::Status s = CheckMaxTokens(most); !s.ok()) return s;
  if (absl::Status s = CheckReserved(wanted.reserved_tokens, most); !s.ok()) return s;
  if (absl::Status s = wanted.chat ? CheckChat(wanted.system) : absl::OkStatus(); !s.ok()) return s;
  absl::StatusOr<SessionId> made = engine_.CreateSession(most, wanted.reserved_tokens);
  if (!made.ok()) return made.status();
  NamedSession& session = Add(*id, wanted.owner, Place::kOpen);
  session.text.chat = wanted.chat;
  if (wanted.chat) session.text.system = wanted.system;
  session.session = *made;
  session.max_tokens = most;
  session.reserved_tokens = wanted.reserved_tokens;
  session.durable = wanted.durable;
  LetMatch(session);
  log_.Event(
      "session created",
      {{"session", *id}, {"owner", wanted.owner}, {"max_tokens", most}, {"reserved_tokens", wanted.reserved_tokens}});
  return View(session);
}

void Sessions::Fork(const CallPtr& call, const std::string& id, const std::string& wanted, int64_t max_tokens,
                    const Viewed& done, int64_t reserved_tokens) {
  absl::StatusOr<NamedSession*> found = Find(id);
  absl::Status status = found.ok() ? Admit((*found)->owner) : found.status();
  if (!status.ok()) return done(status);
  WhenFree(**found, call, Turn::kReads, [=, this](const absl::Status& free) {
    if (!free.ok()) return done(free);
    const NamedSession& parent = *Lookup(id);
    absl::StatusOr<std::string> new_id = NewId(wanted);
    if (!new_id.ok()) return done(new_id.status());
    const int64_t room = max_tokens == 0 ? parent.max_tokens : max_tokens;
    if (absl::Status s = CheckMaxTokens(room); !s.ok()) return done(s);
    if (absl::Status s = CheckReserved(reserved_tokens, room); !s.ok()) return done(s);
    if (absl::Status s = CheckCallersSessions(parent.owner); !s.ok()) return done(s);
    if (absl::Status s = CheckCallersTokens(parent.owner, Tokens(parent)); !s.ok()) return done(s);
    absl::StatusOr<SessionId> fork = engine_.Fork(parent.session, room, reserved_tokens);
    if (!fork.ok()) return done(OfSession(id, fork.status()));
    NamedSession& session = Add(*new_id, parent.owner, Place::kOpen);
    session.session = *fork;
    session.max_tokens = room;
    session.reserved_tokens = reserved_tokens;
    session.text = parent.text;
    session.sent = parent.sent;
    LetMatch(session);
    done(View(session));
  });
}

void Sessions::Rewind(const CallPtr& call, const std::string& id, int64_t tokens, const Viewed& done) {
  absl::StatusOr<NamedSession*> found = Find(id);
  absl::Status status = found.ok() ? Admit((*found)->owner) : found.status();
  if (!status.ok()) return done(status);
  NamedSession& session = **found;
  const CallPtr& reader = session.append.call;
  if (session.state.reading() && !(reader != nullptr && reader->cancelled)) {
    return done(
        absl::FailedPreconditionError(absl::StrCat("session ", id, " is being appended to; cancel that first")));
  }
  WhenFree(session, call, Turn::kRewinds, [this, id, tokens, done](const absl::Status& free) {
    if (!free.ok()) return done(free);
    RewindNow(id, tokens, done);
  });
}

void Sessions::RewindNow(const std::string& id, int64_t tokens, const Viewed& done) {
  NamedSession& session = *Lookup(id);
  const absl::StatusOr<std::vector<int32_t>> all =
      options_.sources ? engine_.Tokens(session.session) : absl::StatusOr<std::vector<int32_t>>(std::vector<int32_t>());
  if (absl::Status s = engine_.Rewind(session.session, tokens); !s.ok()) {
    return done(OfSession(id, s));
  }
  if (options_.sources && all.ok()) session.sent.Cut(*options_.tokenizer, *all, tokens);
  const AppendPhase phase = session.state.append();
  const bool undone = phase == AppendPhase::kStopped && tokens == session.append.start;
  session.text = undone ? session.append.before : BehindCut(session.text, tokens);
  const bool into = phase == AppendPhase::kDone && tokens < session.append.start + session.append.total;
  if (into || phase == AppendPhase::kStopped) ForgetAppend(session);
  if (store_ != nullptr) store_->Do([s = store_, id, tokens] { s->Rewound(id, tokens); });
  if (!session.durable) {
    session.durable_tokens = std::min(session.durable_tokens, tokens);
    done(View(session));
    return RunWaiting(id);
  }
  // What a durable session has lost it must not have again after a crash.
  session.state.To(Place::kSaving);
  auto saved = std::make_shared<absl::Status>();
  const auto write = [s = store_, id, tokens, meta = MetaOf(session, true), saved] {
    *saved = s->RewindSaved(id, tokens, meta);
  };
  store_->Do(write, [this, id, tokens, saved, done] {
    NamedSession* still = Lookup(id);
    if (still == nullptr) return done(absl::CancelledError(absl::StrCat("session ", id, " was closed")));
    still->state.To(Place::kOpen);
    still->durable_tokens = std::min(still->durable_tokens, tokens);  // what else is on disk is not the session's
    if (saved->ok()) {
      done(View(*still));
    } else {
      done(absl::Status(saved->code(), absl::StrCat("session ", id, " is cut to ", tokens,
                                                    " tokens, but that is not on disk: ", saved->message())));
    }
    RunWaiting(id);
  });
}

absl::StatusOr<SessionView> Sessions::Get(const std::string& id) const {
  auto found = sessions_.find(id);
  if (found != sessions_.end()) return View(found->second);
  if (!ValidId(id)) return BadId(id);
  if (store_ == nullptr) return NoSession(id);
  const std::optional<SavedSession> saved = store_->Known(id);
  return saved.has_value() ? absl::StatusOr<SessionView>(SavedView(*saved)) : NoSession(id);
}

// A session that is only saved, as what it is: restored here, of another model, damaged.
SessionView Sessions::SavedView(const SavedSession& saved) const {
  SessionView view;
  view.id = saved.id;
  view.owner = OwnerIn(saved);
  view.residence = Residence::kSaved;
  view.unusable = std::string(saved.usable.message());
  view.held_by = saved.held_by;
  if (!saved.manifest.ok()) return view;
  view.tokens = view.durable_tokens = saved.manifest->tokens;
  view.max_tokens = saved.manifest->max_tokens;
  view.kv_bytes = saved.usable.ok() ? engine_.KvBytes(view.tokens) : saved.manifest->bytes;
  view.durable = saved.manifest->durable;
  view.pinned = saved.manifest->pinned;
  view.tail_bytes = saved.manifest->text.tail_bytes();
  view.sparse = saved.manifest->sparse.report;
  view.chat = saved.manifest->text.chat;
  return view;
}

std::vector<SessionView> Sessions::List() const {
  std::map<std::string, SessionView> all;
  for (const auto& [id, session] : sessions_) all[id] = View(session);
  if (store_ != nullptr) {
    for (const SavedSession& saved : store_->List()) {
      if (saved.manifest.ok() && saved.manifest->prefix) continue;  // nobody's session
      if (all.count(saved.id) == 0) all[saved.id] = SavedView(saved);
    }
  }
  std::vector<SessionView> views;
  for (auto& [id, view] : all) views.push_back(std::move(view));
  return views;
}

void Sessions::Close(const std::string& id, bool delete_saved, Ended done) {
  if (!done) done = [](const absl::Status&) {};
  NamedSession* session = Lookup(id);
  const bool saved = store_ != nullptr && ValidId(id) && store_->Exists(id);
  if (closing_.count(id) != 0 || (session == nullptr && !(saved && delete_saved))) return done(Find(id).status());
  closing_[id] = {delete_saved, std::move(done)};
  if (session != nullptr) {
    NamedSession closing = std::move(*session);
    sessions_.erase(id);
    const absl::Status closed = absl::CancelledError(absl::StrCat("session ", id, " was closed"));
    EndCalls(closing, closed);
    DropJobs(id, closed);
    if (closing.state.in_cache()) engine_.CloseSession(closing.session).IgnoreError();
  }
  log_.Event("session closed", {{"session", id}});
  CloseOnDisk(id);
}

// When nothing of it is at the disk any more.
void Sessions::CloseOnDisk(const std::string& id) {
  const auto found = closing_.find(id);
  if (found == closing_.end()) return;
  for (const StoreJob& job : jobs_) {
    if (job.id == id) return;
  }
  const auto end = [this, id](const absl::Status& status) {
    const Ended done = std::move(closing_.at(id).done);
    closing_.erase(id);
    done(status);
  };
  if (store_ == nullptr) return end(absl::OkStatus());
  auto closed = std::make_shared<absl::Status>();
  const auto close = [s = store_, id, delete_saved = found->second.delete_saved, closed] {
    s->Forget(id);
    if (s->Exists(id)) *closed = delete_saved ? s->Delete(id) : s->SetOpen(id, false);
    s->Release(id);
  };
  store_->Do(close, [end, closed] { end(*closed); });
}

// No save or restore of the session follows.
void Sessions::Release(const std::string& id) {
  store_->Do([s = store_, id] { s->Release(id); });
}

// The append and the waiting calls of a session that is being closed end with this status; its questions end when the
// engine closes it.
void Sessions::EndCalls(NamedSession& session, const absl::Status& status) {
  Append& append = session.append;
  if (append.call != nullptr && append.events.on_done) {
    append.result.status = status;
    append.call->cancel = nullptr;
    append.result.session = View(session);
    append.events.on_done(append.result);
  }
  for (WaitingCall& waiting : session.waiting) waiting.run(status);
  session.waiting.clear();
}

SessionsStats Sessions::stats() const {
  SessionsStats stats = stats_;
  for (const auto& [id, session] : sessions_) {
    ++(session.state.in_cache() ? stats.open : stats.moved_out);
    stats.calls += CallsOn(session);
  }
  stats.calls += static_cast<int>(alone_.size()) + RestoringPrompts();
  for (const auto& [id, text] : saved_texts_.texts()) stats.prefixes_saved += text.left;
  return stats;
}

}  // namespace duo
