// Questions: from their turn to their answer.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "launcher/serve/sessions/sessions.h"

namespace duo {
namespace {

void Refuse(const AskEvents& events, const absl::Status& status) {
  RequestResult result;
  result.status = status;
  events.on_done(result, 0);
}

}  // namespace

void Sessions::Ask(const CallPtr& call, const std::string& id, std::vector<int32_t> tokens,
                   const GenerateParams& params, AskEvents events) {
  absl::StatusOr<NamedSession*> found = Find(id);
  absl::Status status = found.ok() ? Admit() : found.status();
  if (!status.ok()) return Refuse(events, status);
  const Clock::time_point asked = Clock::now();
  const Turn turn = params.keep ? Turn::kChanges : Turn::kReads;
  WhenFree(**found, call, turn, [=, this, tokens = std::move(tokens)](const absl::Status& free) mutable {
    if (!free.ok()) return Refuse(events, free);
    AskNow(call, *Lookup(id), std::move(tokens), params, SecondsSince(asked), events);
  });
}

void Sessions::AskNow(const CallPtr& call, NamedSession& session, std::vector<int32_t> tokens,
                      const GenerateParams& params, double waited, const AskEvents& events) {
  const std::string id = session.id;
  const int64_t history = Tokens(session);
  if (history == 0) tokens.insert(tokens.begin(), options_.begin_tokens.begin(), options_.begin_tokens.end());
  const int64_t most = history + static_cast<int64_t>(tokens.size()) + params.max_new_tokens;
  if (most > options_.max_session_tokens) {  // it would wait for room for ever
    return Refuse(events, absl::ResourceExhaustedError(absl::StrFormat(
                              "session %s holds %d tokens; with the question's %d and an answer of %d that is %d, and "
                              "this server's sequences have at most %d",
                              id, history, tokens.size(), params.max_new_tokens, most, options_.max_session_tokens)));
  }
  auto own = std::make_shared<RequestId>(0);
  RequestEvents request = events.ForEngine();
  request.on_done = [=, this](const RequestResult& done) {
    RequestResult result = done;
    result.queue_seconds += waited;
    call->cancel = nullptr;
    if (result.prompt_tokens > 0) stats_.longest_wait = std::max(stats_.longest_wait, result.queue_seconds);
    if (NamedSession* still = Lookup(id); still != nullptr) {
      std::erase_if(still->questions, [&](const Question& question) { return question.request == *own; });
      still->used = Clock::now();
      Later([this, id] { RunWaiting(id); });
    }
    events.on_done(result, history);
  };
  absl::StatusOr<RequestId> started = engine_.Ask(session.session, std::move(tokens), params, std::move(request));
  if (!started.ok()) return Refuse(events, OfSession(id, started.status()));
  *own = *started;
  session.questions.push_back({*started, params.keep});
  call->cancel = [this, request_id = *started] { engine_.Cancel(request_id).IgnoreError(); };
}

}  // namespace duo
