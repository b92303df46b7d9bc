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

CachedText Sessions::TextOf(const CachedPrefix& cached) const {
  CachedText text = {cached.tokens, cached.refed, cached.tokens > 0 ? "open" : "", ""};
  if (cached.from == CachedPrefix::From::kRead) text.source = "read";
  for (const auto& [id, session] : sessions_) {
    if (cached.session != 0 && session.session == cached.session && session.state.in_cache()) text.session = id;
  }
  return text;
}

void Sessions::AskAlone(const CallPtr& call, std::vector<int32_t> tokens, const GenerateParams& params,
                        const std::vector<AskEvents>& answers) {
  const auto refuse = [&](const absl::Status& status) {
    RequestResult result;
    result.status = status;
    for (const AskEvents& answer : answers) answer.on_done(result, 0);
  };
  if (call->cancelled) return refuse(absl::CancelledError("the call was cancelled"));
  if (absl::Status s = Admit(params.whose.caller, answers.size()); !s.ok()) return refuse(s);
  const int64_t most = static_cast<int64_t>(tokens.size()) + params.max_new_tokens;
  if (most > options_.max_session_tokens) {
    return refuse(absl::ResourceExhaustedError(absl::StrFormat(
        "the prompt's %d tokens and an answer of %d are %d, and this server's sequences have at most %d", tokens.size(),
        params.max_new_tokens, most, options_.max_session_tokens)));
  }
  const absl::StatusOr<SessionId> session = EmptySession();
  if (!session.ok()) return refuse(session.status());
  auto running = std::make_shared<std::vector<RequestId>>();  // those that have not ended; 0: it has
  std::vector<RequestEvents> requests;
  for (size_t i = 0; i < answers.size(); ++i) {
    requests.push_back(answers[i].ForEngine());
    if (answers[i].on_start) {
      requests.back().on_start = [this, on_start = answers[i].on_start](const CachedPrefix& cached) {
        on_start(TextOf(cached));
      };
    }
    requests.back().on_done = [=, this, on_done = answers[i].on_done](const RequestResult& result) {
      if (result.prompt_tokens > 0) stats_.longest_wait = std::max(stats_.longest_wait, result.queue_seconds);
      alone_.erase(std::exchange((*running)[i], 0));
      if (std::count(running->begin(), running->end(), 0) == std::ssize(*running)) call->cancel = nullptr;
      on_done(result, result.cached.tokens);
    };
  }
  absl::StatusOr<std::vector<RequestId>> started =
      engine_.AskMany(*session, std::move(tokens), params, std::move(requests));
  if (!started.ok()) return refuse(started.status());
  *running = *started;
  for (RequestId request : *started) alone_[request] = params.whose.caller;
  call->cancel = [this, ids = *started] {
    for (RequestId id : ids) engine_.Cancel(id).IgnoreError();
  };
}

}  // namespace duo
