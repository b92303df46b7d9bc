// Appends while their text arrives, and whose turn comes then.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/serve/sessions/sessions.h"
#include "runtime/scheduler/busy.h"

namespace duo {

// Is this id that of the session's append, which is reading, stopped or done?
bool Sessions::IsAppend(const NamedSession& session, const std::string& append_id) const {
  return session.state.append() != AppendPhase::kNone && !append_id.empty() && session.append.id == append_id;
}

absl::Status Sessions::StoppedAppend(const NamedSession& session) const {
  const Append& append = session.append;
  return absl::FailedPreconditionError(absl::StrFormat(
      "append \"%s\" of session %s stopped after %d of %d tokens: repeat it, or rewind the session to %d tokens",
      append.id, session.id, ViewOfAppend(session).tokens, append.total, append.start));
}

absl::StatusOr<Sessions::Opened> Sessions::OpenAppend(const std::string& id, const std::string& append_id) {
  absl::StatusOr<NamedSession*> found = Find(id);
  if (!found.ok()) return found.status();
  NamedSession& session = **found;
  if (absl::Status s = Admit(session.owner); !s.ok()) return s;
  session.used = Clock::now();
  Opened opened;
  if (!IsAppend(session, append_id)) {
    if (session.state.append() == AppendPhase::kStopped) return StoppedAppend(session);
    if (append_id.empty()) {
      opened.text = NewText();
    } else {
      const bool uploading = session.state.upload() == AppendPhase::kUploading;
      if (uploading && session.upload.id != append_id) session.state.UploadTo(AppendPhase::kNone);
      if (session.state.upload() == AppendPhase::kNone) {
        session.state.UploadTo(AppendPhase::kUploading);
        session.upload = {append_id, NewText()};
      }
      opened.text = session.upload.text;
    }
  }
  opened.session = View(session);
  return opened;
}

void Sessions::DropUpload(const std::string& id, const std::string& append_id) {
  if (NamedSession* session = Lookup(id); session != nullptr) DropUpload(*session, append_id);
}

void Sessions::DropUpload(NamedSession& session, const std::string& append_id) {
  if (session.state.upload() != AppendPhase::kUploading || session.upload.id != append_id) return;
  session.state.UploadTo(AppendPhase::kNone);
  session.upload = {};
}

std::shared_ptr<AppendText> Sessions::NewText() {
  std::erase_if(texts_, [](const auto& text) { return text.expired(); });
  auto text = std::make_shared<AppendText>(uploads_);
  texts_.push_back(text);
  return text;
}

// An upload of which nothing comes any more, broken off or held open, does not keep its text for ever.
void Sessions::DropIdleUploads() {
  const absl::Status idle = absl::AbortedError(absl::StrFormat(
      "nothing of this append came for %.0f seconds (--upload-idle): its text is given up", options_.upload_seconds));
  std::vector<std::function<void(const absl::Status&)>> calls;
  const auto expired = [&](AppendText& text) {
    std::lock_guard lock(text.mutex);
    return !text.whole && SecondsSince(text.touched) > options_.upload_seconds;
  };
  for (auto& [id, session] : sessions_) {
    if (session.state.upload() != AppendPhase::kUploading || !expired(*session.upload.text)) continue;
    log_.Warn("upload given up", {{"session", id}, {"append", session.upload.id}});
    session.state.UploadTo(AppendPhase::kNone);
    session.upload = {};
  }
  for (const std::weak_ptr<AppendText>& weak : texts_) {
    const std::shared_ptr<AppendText> text = weak.lock();
    if (text == nullptr || !expired(*text)) continue;
    std::lock_guard lock(text->mutex);
    if (text->expire) calls.push_back(std::exchange(text->expire, nullptr));
  }
  for (auto& end : calls) end(idle);
}

void Sessions::RefuseAppend(const std::string& id, const AppendEvents& events, const absl::Status& status) {
  AppendDone done;
  done.status = status;
  if (const NamedSession* session = Lookup(id); session != nullptr) done.session = View(*session);
  events.on_done(done);
}

void Sessions::ReadAppend(const CallPtr& call, AppendInput input, AppendEvents events) {
  const std::string id = input.session_id;
  absl::StatusOr<NamedSession*> found = Find(id);
  if (!found.ok()) return RefuseAppend(id, events, found.status());
  NamedSession& session = **found;
  if (IsAppend(session, input.append_id)) return TakeUpAppend(call, session, std::move(events));
  if (input.tokens.empty() && input.text.empty()) {
    DropUpload(session, input.append_id);
    return RefuseAppend(id, events, absl::InvalidArgumentError("the append has no text"));
  }
  WhenFree(session, call, Turn::kChanges,
           [this, call, input = std::move(input), events = std::move(events)](const absl::Status& free) mutable {
             if (!free.ok()) return RefuseAppend(input.session_id, events, free);
             PrepareAppend(call, std::move(input), std::move(events));
           });
}

// The append is at Sessions already: the call goes on with it.
void Sessions::TakeUpAppend(const CallPtr& call, NamedSession& session, AppendEvents events) {
  Append& append = session.append;
  SessionState& state = session.state;
  if (state.append() == AppendPhase::kDone) {
    AppendDone done;
    done.tokens = append.total;
    done.received_bytes = append.received_bytes;
    done.session = View(session);
    return events.on_done(done);
  }
  if (call->cancelled) return RefuseAppend(session.id, events, absl::CancelledError("the call was cancelled"));
  if (append.call != nullptr && append.events.on_done) {  // a newer call takes over
    AppendDone taken;
    taken.status = absl::AbortedError("another call goes on with this append");
    taken.session = View(session);
    append.call->cancel = nullptr;
    append.events.on_done(taken);
  }
  append.call = call;
  append.events = std::move(events);
  if (state.reading()) {
    call->cancel = [this, request = append.request] { engine_.Cancel(request).IgnoreError(); };
    return;
  }
  if (state.place() == Place::kMovedOut) StartRestoreJob(session);
  state.To(AppendPhase::kReading);
  append.begun = Clock::now();
  append.begun_at = ViewOfAppend(session).tokens;
  if (state.in_cache()) ReadNext(session.id);  // otherwise OnRestored goes on with it
}

// Its turn has come: the session is open and has no unfinished append.
void Sessions::BeginAppend(const CallPtr& call, AppendInput input, AppendEvents events) {
  const std::string id = input.session_id;
  NamedSession& session = *Lookup(id);
  SessionState& state = session.state;
  Append append;
  append.start = Tokens(session);
  if (append.start == 0 && !input.begun && !input.rest.chat && !input.tokens.empty()) {
    input.tokens.insert(input.tokens.begin(), options_.begin_tokens.begin(), options_.begin_tokens.end());
  }
  append.total = static_cast<int64_t>(input.tokens.size());
  const int64_t more = append.total + input.rest_tokens;  // of what stays text too: a question reads it
  if (append.start + more > session.max_tokens) {
    DropUpload(session, input.append_id);
    return RefuseAppend(id, events,
                        absl::ResourceExhaustedError(
                            absl::StrFormat("session %s holds %d tokens of at most %d; this append's %d do not fit", id,
                                            append.start, session.max_tokens, more)));
  }
  if (absl::Status s = CheckCallersTokens(session.owner, append.total); !s.ok()) {
    DropUpload(session, input.append_id);
    return RefuseAppend(id, events, s);
  }
  if (absl::Status s = engine_.CheckRoom(session.session, append.start + append.total); !s.ok()) {
    DropUpload(session, input.append_id);
    return RefuseAppend(id, events,
                        Busy(absl::StrCat("this append's ", append.total, " tokens do not fit: ", s.message())));
  }
  append.id = input.append_id;
  append.sent = std::move(input.sent);
  append.frame = std::move(input.frame);
  append.tokens = std::move(input.tokens);
  append.received_bytes = input.received_bytes;
  append.whose = input.whose;
  append.call = call;
  append.events = std::move(events);
  append.begun = Clock::now();
  append.before = std::exchange(session.text, std::move(input.rest));
  if (state.append() != AppendPhase::kNone) ForgetAppend(session);
  DropUpload(session, input.append_id);
  state.To(AppendPhase::kUploading);
  state.To(AppendPhase::kReading);
  session.append = std::move(append);
  if (!session.durable) return ReadNext(id);
  // What is to be read is on the disk before reading begins: after a crash nobody need send it again.
  StartSaveJob(session, [this, id](const absl::Status& status, StoreJob&) {
    if (status.ok()) return ReadNext(id);
    EndAppend(id, status);
  });
}

}  // namespace duo
