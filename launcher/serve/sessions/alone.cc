// Questions without a session: whole prompts that a caller sends once, as OpenAI's clients do. Each runs on a fork of
// an empty session that the engine keeps for them, so that any number may wait and none takes a session's place.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/serve/sessions/sessions.h"

namespace duo {

absl::StatusOr<SessionId> Sessions::EmptySession() {
  if (empty_session_ != 0) return empty_session_;
  absl::StatusOr<SessionId> made = engine_.CreateSession(1, 0);
  if (made.ok()) empty_session_ = *made;
  return made;
}

absl::Status Sessions::ExpectPrompts() { return EmptySession().status(); }

PrefixUse Sessions::PrefixOf(const std::string& owner, const std::string& salt) const {
  // No owner's name has a line's end.
  return {options_.prefixes, absl::StrCat(options_.share_prefixes ? "" : owner, "\n", salt)};
}

// An open session's text is met by its owner's prompts.
void Sessions::LetMatch(const NamedSession& session) {
  if (!options_.prefixes) return;
  engine_.LetMatch(session.session, PrefixOf(session.owner, "").realm).IgnoreError();
}

CachedText Sessions::TextOf(const Prompt& prompt, const CachedPrefix& cached) {
  CachedText text;
  if (cached.tokens == 0) return text;
  text.tokens = cached.tokens;
  text.refed_tokens = cached.refed;
  text.source = cached.from == CachedPrefix::From::kRead ? "read" : "open";
  const bool named = !options_.share_prefixes;  // another caller's names are not told
  for (const auto& [id, session] : sessions_) {
    if (named && cached.session != 0 && session.session == cached.session && session.state.in_cache())
      text.session = id;
  }
  if (prompt.restored_from.empty()) return text;
  text.source = prompt.restored_from;
  if (named) text.session = prompt.restored_session;
  text.restored_bytes = prompt.restored_bytes;
  (text.source == "saved" ? stats_.saved_hit_tokens : stats_.moved_out_hit_tokens) += cached.tokens;
  return text;
}

std::vector<SessionView> Sessions::ListPrefixes() const {
  std::vector<SessionView> views;
  const auto add = [&](const std::string& id, const std::string& owner, int64_t tokens) -> SessionView& {
    SessionView& view = views.emplace_back();
    view.id = id;
    view.owner = owner;
    view.prefix = true;
    view.tokens = tokens;
    view.kv_bytes = engine_.KvBytes(tokens);
    return view;
  };
  for (const PrefixInfo& prefix : engine_.Prefixes()) {
    const std::string owner = prefix.realm.substr(0, prefix.realm.find('\n'));
    SessionView& view = add(absl::StrCat("prefix-", prefix.id), owner, prefix.tokens);
    view.hits = prefix.hits;
    view.idle_seconds = prefix.idle_seconds;
  }
  if (store_ == nullptr) return views;
  for (const SavedSession& saved : store_->List()) {
    if (!saved.manifest.ok() || !saved.manifest->prefix) continue;
    SessionView& view = add(saved.id, saved.manifest->owner, saved.manifest->tokens);
    view.residence = Residence::kSaved;
    view.durable_tokens = view.tokens;
    view.unusable = std::string(saved.usable.message());
  }
  return views;
}

void Sessions::AskAlone(const CallPtr& call, std::vector<int32_t> tokens, const GenerateParams& params,
                        const std::vector<AskEvents>& answers) {
  const auto prompt = std::make_shared<Prompt>(Prompt{call, std::move(tokens), params, answers});
  if (call->cancelled) return prompt->Refuse(absl::CancelledError("the call was cancelled"));
  if (absl::Status s = Admit(params.whose.caller, answers.size()); !s.ok()) return prompt->Refuse(s);
  const auto length = static_cast<int64_t>(prompt->tokens.size());
  if (const int64_t most = length + params.max_new_tokens; most > options_.max_session_tokens) {
    return prompt->Refuse(absl::ResourceExhaustedError(absl::StrFormat(
        "the prompt's %d tokens and an answer of %d are %d, and this server's sequences have at most %d", length,
        params.max_new_tokens, most, options_.max_session_tokens)));
  }
  if (!RestoreFor(prompt)) StartPrompt(prompt);
}

// The prompt becomes requests of the engine, which finds what of it is in the cache when they start.
void Sessions::StartPrompt(const PromptPtr& prompt) {
  const CallPtr& call = prompt->call;
  if (call->cancelled) return prompt->Refuse(absl::CancelledError("the call was cancelled"));
  const absl::StatusOr<SessionId> session = EmptySession();
  if (!session.ok()) return prompt->Refuse(session.status());
  const std::vector<AskEvents>& answers = prompt->answers;
  auto running = std::make_shared<std::vector<RequestId>>();  // those that have not ended; 0: it has
  std::vector<RequestEvents> requests;
  for (size_t i = 0; i < answers.size(); ++i) {
    requests.push_back(answers[i].ForEngine());
    if (answers[i].on_start) {
      requests.back().on_start = [this, prompt, on_start = answers[i].on_start](const CachedPrefix& cached) {
        on_start(TextOf(*prompt, cached));
      };
    }
    requests.back().on_done = [=, this, on_done = answers[i].on_done](const RequestResult& result) {
      if (result.prompt_tokens > 0) stats_.longest_wait = std::max(stats_.longest_wait, result.queue_seconds);
      alone_.erase(std::exchange((*running)[i], 0));
      if (std::count(running->begin(), running->end(), 0) == std::ssize(*running)) call->cancel = nullptr;
      if (options_.prefix_disk > 0) Later([this] { SavePrefixes(); });
      on_done(result, result.cached.tokens);
    };
  }
  absl::StatusOr<std::vector<RequestId>> started =
      engine_.AskMany(*session, std::move(prompt->tokens), prompt->params, std::move(requests));
  if (!started.ok()) return prompt->Refuse(started.status());
  *running = *started;
  for (RequestId request : *started) alone_[request] = prompt->params.whose.caller;
  call->cancel = [this, ids = *started] {
    for (RequestId id : ids) engine_.Cancel(id).IgnoreError();
  };
}

}  // namespace duo
