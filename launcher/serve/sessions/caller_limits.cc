// What one caller may have at once, so that no caller takes what all live from: calls, sessions, tokens held. An owner
// of sessions and the caller of prompts are one name; a server without bearer tokens knows one caller alone.
#include "absl/strings/str_format.h"
#include "launcher/serve/sessions/sessions.h"
#include "runtime/scheduler/busy.h"

namespace duo {
namespace {

// Callers that nobody named own what is the default owner's.
const std::string& NameOf(const std::string& caller) {
  static const std::string* const anonymous = new std::string(kDefaultOwner);
  return caller.empty() ? *anonymous : caller;
}

}  // namespace

int Sessions::CallsOn(const NamedSession& session) const {
  return static_cast<int>(session.questions.size() + session.waiting.size()) + session.state.reading() +
         (session.tokenising != 0);
}

// So many calls more of a caller.
absl::Status Sessions::Admit(const std::string& caller, size_t more) const {
  if (draining_) return absl::UnavailableError("the server is draining; try another one");
  const int calls = stats().calls;
  if (calls + static_cast<int64_t>(more) > options_.max_waiting) {
    return Busy(absl::StrFormat("%d calls wait or run, the limit is %d (--max-queue); try again later", calls,
                                options_.max_waiting));
  }
  if (options_.caller.calls == 0) return absl::OkStatus();
  const std::string& name = NameOf(caller);
  int own = 0;
  for (const auto& [id, session] : sessions_) {
    if (session.owner == name) own += CallsOn(session);
  }
  for (const auto& [request, of] : alone_) own += NameOf(of) == name;
  for (const auto& [id, prompts] : restoring_) {
    for (const PromptPtr& prompt : prompts) {
      own += NameOf(prompt->params.whose.caller) == name ? static_cast<int>(prompt->answers.size()) : 0;
    }
  }
  if (own + static_cast<int64_t>(more) <= options_.caller.calls) return absl::OkStatus();
  return Busy(
      absl::StrFormat("%d of your calls wait or run, a caller's limit is %d (--max-caller-queue); try again later", own,
                      options_.caller.calls));
}

// One more session that is open, or moved out.
absl::Status Sessions::CheckCallersSessions(const std::string& caller) const {
  if (options_.caller.sessions == 0) return absl::OkStatus();
  int own = 0;
  for (const auto& [id, session] : sessions_) own += session.owner == NameOf(caller);
  if (own < options_.caller.sessions) return absl::OkStatus();
  return Busy(absl::StrFormat("you have %d sessions open, a caller's limit is %d (--max-caller-sessions); close one",
                              own, options_.caller.sessions));
}

// So many tokens more in sessions that are open. A fork's count as its own, though it shares them.
absl::Status Sessions::CheckCallersTokens(const std::string& caller, int64_t more) const {
  if (options_.caller.tokens == 0) return absl::OkStatus();
  int64_t own = 0;
  for (const auto& [id, session] : sessions_) {
    if (session.owner == NameOf(caller) && session.state.in_cache()) own += Tokens(session);
  }
  if (own + more <= options_.caller.tokens) return absl::OkStatus();
  return Busy(
      absl::StrFormat("your open sessions hold %d tokens and %d more would come; a caller's limit is %d "
                      "(--max-caller-tokens); close one",
                      own, more, options_.caller.tokens));
}

}  // namespace duo
