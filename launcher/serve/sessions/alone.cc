// Questions without a session: whole prompts that a caller sends once, as OpenAI's clients do. Each runs on a fork of
// an empty session that the engine keeps for them, so that any number may wait and none takes a session's place.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "launcher/serve/sessions/sessions.h"

namespace duo {

// On whose fork this prompt is answered. Of its first tokens that session holds as many as `held` says.
absl::StatusOr<SessionId> Sessions::SessionFor(const std::vector<int32_t>&, int64_t* held) {
  *held = 0;
  if (empty_session_ != 0) return empty_session_;
  absl::StatusOr<SessionId> made = engine_.CreateSession(1, 0);
  if (made.ok()) empty_session_ = *made;
  return made;
}

absl::Status Sessions::ExpectPrompts() {
  int64_t held = 0;
  return SessionFor({}, &held).status();
}

void Sessions::AskAlone(const CallPtr& call, std::vector<int32_t> tokens, const GenerateParams& params,
                        const std::vector<AskEvents>& answers) {
  const auto refuse = [&](const absl::Status& status) {
    RequestResult result;
    result.status = status;
    for (const AskEvents& answer : answers) answer.on_done(result, 0);
  };
  if (call->cancelled) return refuse(absl::CancelledError("the call was cancelled"));
  if (absl::Status s = Admit(answers.size()); !s.ok()) return refuse(s);
  const int64_t most = static_cast<int64_t>(tokens.size()) + params.max_new_tokens;
  if (most > options_.max_session_tokens) {
    return refuse(absl::ResourceExhaustedError(absl::StrFormat(
        "the prompt's %d tokens and an answer of %d are %d, and this server's sequences have at most %d", tokens.size(),
        params.max_new_tokens, most, options_.max_session_tokens)));
  }
  int64_t held = 0;
  const absl::StatusOr<SessionId> session = SessionFor(tokens, &held);
  if (!session.ok()) return refuse(session.status());
  tokens.erase(tokens.begin(), tokens.begin() + held);
  auto running = std::make_shared<std::vector<RequestId>>();  // those that have not ended; 0: it has
  std::vector<RequestEvents> requests;
  for (size_t i = 0; i < answers.size(); ++i) {
    requests.push_back(answers[i].ForEngine());
    requests.back().on_done = [=, this, on_done = answers[i].on_done](const RequestResult& result) {
      if (result.prompt_tokens > 0) stats_.longest_wait = std::max(stats_.longest_wait, result.queue_seconds);
      std::erase(alone_, std::exchange((*running)[i], 0));
      if (std::count(running->begin(), running->end(), 0) == std::ssize(*running)) call->cancel = nullptr;
      on_done(result, held);
    };
  }
  absl::StatusOr<std::vector<RequestId>> started =
      engine_.AskMany(*session, std::move(tokens), params, std::move(requests));
  if (!started.ok()) return refuse(started.status());
  *running = *started;
  alone_.insert(alone_.end(), started->begin(), started->end());
  call->cancel = [this, ids = *started] {
    for (RequestId id : ids) engine_.Cancel(id).IgnoreError();
  };
}

}  // namespace duo
