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

void Sessions::AskText(const CallPtr& call, const std::string& id, QuestionInput question, const GenerateParams& params,
                       AskEvents events) {
  absl::StatusOr<NamedSession*> found = Find(id);
  absl::Status status = found.ok() ? Admit((*found)->owner) : found.status();
  if (status.ok() && question.turn && !(*found)->text.chat) {
    status = absl::FailedPreconditionError(
        absl::StrCat("session ", id,
                     " is no conversation, which takes turns: ask it by /v1/completions, or make one "
                     "with \"chat\": true"));
  }
  if (!status.ok()) return Refuse(events, status);
  const Turn turn = params.keep ? Turn::kChanges : Turn::kReads;
  const Asked asked{id, params, Clock::now(), std::move(events), question.fits};
  WhenFree(**found, call, turn, [=, this, question = std::move(question)](const absl::Status& free) mutable {
    if (!free.ok()) return Refuse(asked.events, free);
    PrepareQuestion(call, std::move(question), asked);
  });
}

// read: the question's tokens, with those of the text before it, and what is behind its answer where that is kept.
void Sessions::AskNow(const CallPtr& call, TextRead read, const Asked& asked) {
  const std::string id = asked.id;
  NamedSession& session = *Lookup(id);
  const AskEvents& events = asked.events;
  const int64_t history = Tokens(session);
  std::vector<int32_t> tokens = std::move(read.tokens);
  if (history == 0 && !session.text.chat) {
    tokens.insert(tokens.begin(), options_.begin_tokens.begin(), options_.begin_tokens.end());
  }
  const GenerateParams params = ParamsOf(asked, session, static_cast<int64_t>(tokens.size()));
  const int64_t most = history + static_cast<int64_t>(tokens.size()) + params.max_new_tokens;
  if (most > options_.max_session_tokens) {  // it would wait for room for ever
    return Refuse(events, absl::ResourceExhaustedError(absl::StrFormat(
                              "session %s holds %d tokens; with the question's %d and an answer of %d that is %d, and "
                              "this server's sequences have at most %d",
                              id, history, tokens.size(), params.max_new_tokens, most, options_.max_session_tokens)));
  }
  if (asked.params.keep) {
    const absl::Status s = CheckCallersTokens(session.owner, most - history);
    if (!s.ok()) return Refuse(events, s);
  }
  if (asked.params.mass && events.on_sent) events.on_sent(SentOf(session, tokens));
  const double waited = SecondsSince(asked.since);
  const bool keep = asked.params.keep;
  const auto asks = static_cast<int64_t>(tokens.size());
  auto own = std::make_shared<RequestId>(0);
  RequestEvents request = events.ForEngine();
  request.on_done = [=, this, rest = std::move(read.rest)](const RequestResult& done) {
    RequestResult result = done;
    result.queue_seconds += waited;
    call->cancel = nullptr;
    if (result.prompt_tokens > 0) stats_.longest_wait = std::max(stats_.longest_wait, result.queue_seconds);
    if (NamedSession* still = Lookup(id); still != nullptr) {
      std::erase_if(still->questions, [&](const Question& question) { return question.request == *own; });
      still->used = Clock::now();
      if (keep) {
        KeptQuestion kept{history, asks, result.status.ok(), std::nullopt};
        if (kept.ok && asked.events.said) kept.answer = asked.events.said();
        OnKept(*still, kept, rest);
      }
      Later([this, id] { RunWaiting(id); });
    }
    asked.events.on_done(result, history);
  };
  absl::StatusOr<RequestId> started = engine_.Ask(session.session, std::move(tokens), params, std::move(request));
  if (!started.ok()) return Refuse(events, OfSession(id, started.status()));
  *own = *started;
  session.questions.push_back({*started, keep});
  call->cancel = [this, request_id = *started] { engine_.Cancel(request_id).IgnoreError(); };
}

// What was asked for, as the session is now; tokens: the question's.
GenerateParams Sessions::ParamsOf(const Asked& asked, const NamedSession& session, int64_t tokens) const {
  GenerateParams params = asked.params;
  const int64_t history = Tokens(session), sinks = engine_.heads().sink;
  if (asked.fits) {
    const int64_t longest = params.keep ? session.max_tokens : options_.max_session_tokens;
    const int64_t room = std::min(longest - history, engine_.stats().pages_available * kPageTokens) - tokens;
    params.max_new_tokens = std::clamp<int64_t>(room, 1, params.max_new_tokens);
  }
  // Of the row of the first token also each head's share on the session's text, the sinks left out.
  if (params.mass && history > sinks) {
    params.mass_ranges = {{{static_cast<int32_t>(sinks), static_cast<int32_t>(history)}}, {}};
  }
  return params;
}

// The session's text as it was sent, or, where that is not known (it was restored), as its tokens say it.
std::shared_ptr<const SentSession> Sessions::SentOf(const NamedSession& session,
                                                    const std::vector<int32_t>& question) const {
  auto found = std::make_shared<SentSession>();
  absl::StatusOr<std::vector<int32_t>> tokens = engine_.Tokens(session.session);
  if (tokens.ok()) found->tokens = *std::move(tokens);
  found->sent = session.sent;
  const auto history = static_cast<int64_t>(found->tokens.size());
  if (!found->sent.known) {
    const std::string said = options_.tokenizer->Decode(found->tokens) + session.text.tail_text();
    found->sent.Add(said, "", 0, history, session.text.tail_bytes());
  }
  // What was left of it became the question's first tokens.
  if (found->sent.tail > 0 && found->sent.tokens == history) {
    found->tokens.insert(found->tokens.end(), question.begin(), question.end());
    found->sent.tokens = static_cast<int64_t>(found->tokens.size());
  }
  return found;
}

// Question and answer are part of the session. One that ended before its answer began leaves nothing, where some of its
// tokens are those of text that the session had before.
void Sessions::OnKept(NamedSession& session, const KeptQuestion& kept, const SessionText& rest) {
  const int64_t more = Tokens(session) - kept.history;
  if (more > 0) {  // the question's first tokens stand for what was left of the text
    SentText& sent = session.sent;
    if (sent.tail > 0 && sent.tokens == kept.history) sent.tokens = kept.history + std::min(more, kept.tokens);
    sent.tail = 0;
  }
  if (kept.ok || more >= kept.tokens) {
    session.text = rest;
    if (!kept.answer.has_value()) session.text.turn.reset();  // its tokens are all that is known of it
    if (session.text.turn.has_value()) session.text.turn->answer = *kept.answer;
  } else if (more > 0 && (!session.text.tail.empty() || session.text.chat)) {
    UndoQuestion(session, kept.history);
  } else if (more > 0) {
    session.text = BehindTokens(session.text, false);
  }
}

void Sessions::UndoQuestion(NamedSession& session, int64_t history) {
  CutLater(session, nullptr, {history, Turn::kRewinds}, [this, id = session.id](const absl::Status& cut) {
    if (!cut.ok()) log_.Warn("question not undone", {{"session", id}, {"status", std::string(cut.message())}});
  });
}

// The session is cut before anything else is done with it, as soon as that can be.
void Sessions::CutLater(NamedSession& session, const CallPtr& call, Cut cut,
                        const std::function<void(const absl::Status&)>& then) {
  session.waiting.push_front({call, cut.turn, [=, this, id = session.id](const absl::Status& free) {
                                if (!free.ok()) return then(free);
                                NamedSession& still = *Lookup(id);
                                if (absl::Status done = engine_.Rewind(still.session, cut.tokens); !done.ok()) {
                                  if (cut.turn == Turn::kAlone) return then(done);
                                  // Others hold its pages.
                                  return CutLater(still, call, {cut.tokens, Turn::kAlone}, then);
                                }
                                still.durable_tokens = std::min(still.durable_tokens, cut.tokens);
                                if (store_ != nullptr) {
                                  store_->Do([s = store_, id, to = cut.tokens] { s->Rewound(id, to); });
                                }
                                then(absl::OkStatus());
                              }});
}

}  // namespace duo
