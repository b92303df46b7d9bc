// Saved sessions whose pages are of no use here: read again from their tokens.
#include <algorithm>
#include <utility>

#include "launcher/serve/sessions/sessions.h"

namespace duo {

void Sessions::Reread(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens,
                      const Saved& done) {
  const auto refuse = [done](const absl::Status& status) {
    SaveDone refused;
    refused.status = status;
    done(refused);
  };
  const absl::StatusOr<std::string> name = CheckRestore(id, new_id, max_tokens);
  if (!name.ok()) return refuse(name.status());
  taken_.insert(*name);
  auto texts = std::make_shared<absl::StatusOr<SessionStore::Texts>>(absl::UnknownError("not read"));
  const auto read = [s = store_, id, own = *name == id, texts] {
    *texts = s->ReadTexts(id);
    if (!own || !texts->ok()) return;
    if (absl::Status held = s->Hold(id); !held.ok()) *texts = held;
  };
  store_->Do(read, [=, this, name = *name] {
    taken_.erase(name);
    if (texts->ok() && call->cancelled) *texts = absl::CancelledError("the call was cancelled");
    if (texts->ok()) return RereadFound(call, id, name, max_tokens, *std::move(*texts), done);
    if (name == id) Release(id);
    refuse(texts->status());
  });
}

void Sessions::RereadFound(const CallPtr& call, const std::string& id, const std::string& name, int64_t max_tokens,
                           SessionStore::Texts texts, const Saved& done) {
  const SessionManifest& manifest = texts.manifest;
  std::vector<int32_t> tokens = std::move(texts.tokens);
  if (manifest.append.has_value() && !manifest.append->done) {  // all of it is there, so all of it is read
    tokens.resize(manifest.append->start);
    tokens.insert(tokens.end(), manifest.append->tokens.begin(), manifest.append->tokens.end());
  }
  const int64_t room = max_tokens != 0 ? max_tokens : std::min(manifest.max_tokens, options_.max_session_tokens);
  const int64_t reserved = std::min(manifest.reserved_tokens, room);
  absl::StatusOr<SessionId> made = engine_.CreateSession(std::max<int64_t>(1, room), reserved);
  if (!made.ok()) {
    if (name == id) Release(id);
    SaveDone refused;
    refused.status = made.status();
    return done(refused);
  }
  NamedSession& session = Add(name, manifest.owner, Place::kOpen);
  session.session = *made;
  session.max_tokens = room;
  session.reserved_tokens = reserved;
  session.replaces = name == id;
  AppendInput input;
  input.session_id = name;
  input.tokens = std::move(tokens);
  input.begun = true;
  input.rest = manifest.text;
  AppendEvents events;
  events.on_done = [this, name, done, durable = manifest.durable && name == id](const AppendDone& read) {
    // Not from inside the append's end, which still has the session in hand.
    Later([this, name, read, durable, done] { OnReread(name, read, durable, done); });
  };
  if (!input.tokens.empty()) return BeginAppend(call, std::move(input), std::move(events));
  session.text = input.rest;
  AppendDone nothing;
  events.on_done(nothing);
}

// It becomes durable with the first save of what it is now: until then the old one is there.
void Sessions::OnReread(const std::string& id, const AppendDone& read, bool durable, const Saved& done) {
  SaveDone result;
  result.status = read.status;
  result.seconds = read.read_seconds;
  NamedSession* session = Lookup(id);
  if (session == nullptr) return done(result);
  if (!read.status.ok()) {
    EndCalls(*session, read.status);
    engine_.CloseSession(session->session).IgnoreError();
    sessions_.erase(id);
    Release(id);
    return done(result);
  }
  log_.Event("session read again", {{"session", id}, {"tokens", Tokens(*session)}, {"seconds", read.read_seconds}});
  session->durable = durable;
  result.session = View(*session);
  if (!durable) return done(result);
  StartSaveJob(*session, [this, id, result, done](const absl::Status& saved, StoreJob&) mutable {
    result.status = saved;
    if (const NamedSession* still = Lookup(id); still != nullptr) result.session = View(*still);
    done(result);
  });
}

}  // namespace duo
