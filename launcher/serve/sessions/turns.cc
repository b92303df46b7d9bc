// Whose turn it is: calls on one session take effect in the order in which they came, when the session is open and
// nothing is changing it.
#include <algorithm>

#include "launcher/serve/sessions/sessions.h"

namespace duo {

bool Sessions::Free(const NamedSession& session, Turn turn) const {
  const Place place = session.state.place();
  if (place != Place::kOpen && !(place == Place::kSaving && turn == Turn::kReads)) return false;
  if (session.keeps() || session.state.reading() || session.tokenising != 0) return false;
  if (turn == Turn::kAlone) return session.questions.empty();
  if (turn != Turn::kRewinds) return true;
  const absl::StatusOr<SessionInfo> info = engine_.Get(session.session);
  return !info.ok() || info->standing_requests == 0;
}

// Nobody has anything to do with it.
bool Sessions::Idle(const NamedSession& session) const {
  return Free(session, Turn::kChanges) && session.questions.empty() && session.waiting.empty() &&
         session.state.upload() == AppendPhase::kNone;
}

void Sessions::WhenFree(NamedSession& session, const CallPtr& call, Turn turn, Run run) {
  session.used = Clock::now();
  session.waiting.push_back({call, turn, std::move(run)});
  if (session.state.place() == Place::kMovedOut) StartRestoreJob(session);
  RunWaiting(session.id);
}

void Sessions::RunWaiting(const std::string& id) {
  while (true) {
    NamedSession* session = Lookup(id);
    if (session == nullptr || session->waiting.empty()) return;
    if (!Free(*session, session->waiting.front().turn)) return;
    WaitingCall next = std::move(session->waiting.front());
    session->waiting.pop_front();
    if (next.call != nullptr && next.call->cancelled) {
      next.run(absl::CancelledError("the call was cancelled"));
    } else if (session->state.append() == AppendPhase::kStopped &&
               (next.turn == Turn::kReads || next.turn == Turn::kChanges)) {
      next.run(StoppedAppend(*session));
    } else {
      next.run(absl::OkStatus());
    }
  }
}

void Sessions::Cancel(const CallPtr& call) {
  call->cancelled = true;
  if (call->cancel) {
    auto cancel = std::move(call->cancel);
    call->cancel = nullptr;
    return cancel();
  }
  for (auto& [id, session] : sessions_) {
    std::deque<WaitingCall>& waiting = session.waiting;
    auto found = std::find_if(waiting.begin(), waiting.end(), [&](const auto& w) { return w.call == call; });
    if (found == waiting.end()) continue;
    WaitingCall gone = std::move(*found);
    waiting.erase(found);
    return gone.run(absl::CancelledError("the call was cancelled"));
  }
}

int Sessions::CancelAll() {
  const std::map<RequestId, std::string> alone = alone_;
  for (const auto& [request, caller] : alone) engine_.Cancel(request).IgnoreError();
  int calls = static_cast<int>(alone.size()) + EndRestoring(absl::UnavailableError("the server is draining"));
  for (auto& [id, session] : sessions_) {
    std::deque<WaitingCall> waiting = std::move(session.waiting);
    session.waiting.clear();
    for (WaitingCall& w : waiting) {
      if (w.call != nullptr) {
        ++calls;
        w.run(absl::UnavailableError("the server is draining"));
      } else {
        session.waiting.push_back(std::move(w));  // of the server itself: an append that is to be undone
      }
    }
    const std::vector<Question> questions = session.questions;
    calls += static_cast<int>(questions.size()) + (session.state.reading() ? 1 : 0);
    for (const Question& question : questions) engine_.Cancel(question.request).IgnoreError();
  }
  return calls;
}

}  // namespace duo
