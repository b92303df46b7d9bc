#include "launcher/serve/calls/session_calls.h"

#include <utility>

#include "launcher/serve/calls/call_span.h"

namespace duo {
namespace {

// A session that a caller who is gone has just opened would never be closed.
void FinishOpened(Sessions& sessions, const UnaryCall& call, const Answered<SessionView>& finish,
                  const absl::StatusOr<SessionView>& view) {
  if (!view.ok() || !call.gone()) return finish(view);
  sessions.Close(view->id, false);
  finish(absl::CancelledError("the caller is gone"));
}

void FinishSaved(const Answered<SaveDone>& finish, const SaveDone& done) {
  if (done.status.ok()) return finish(done);
  finish(done.status);
}

// What a call's span shows of its time.
std::vector<SpanPart> PartsOf(const std::string& method, const SaveDone& done) {
  return {{"queue", 0, 0}, {method == "Save" ? "save" : "restore", 0, done.seconds}};
}
template <typename Answer>
std::vector<SpanPart> PartsOf(const std::string&, const Answer&) {
  return {};
}

// A call on one session, request.session_id, which must be the caller's.
template <typename Answer, typename Request, typename Work>
UnaryCallPtr StartOnSession(CallContext& context, const Caller& caller, const char* method, Answered<Answer> answered,
                            Request request, Work work) {
  Answered<Answer> finish = std::move(answered);
  if (context.spans != nullptr) {
    const CallSpan span = {
        method, {"", caller.request_id, caller.trace}, "", request.session_id, std::chrono::steady_clock::now()};
    finish = [&context, span, finish](const absl::StatusOr<Answer>& answer) {
      SendSpan(context, span, answer.status(), answer.ok() ? PartsOf(span.method, *answer) : std::vector<SpanPart>());
      finish(answer);
    };
  }
  return StartUnary(context, caller, method, Right::kSessions, std::move(finish),
                    [&context, r = std::move(request), work](const UnaryCallPtr& call, const Answered<Answer>& done) {
                      if (absl::Status s = context.CheckOwner(call->who, r.session_id); !s.ok()) return done(s);
                      work(r, call, done);
                    });
}

}  // namespace

UnaryCallPtr StartCreate(CallContext& context, const Caller& caller, CreateRequest request,
                         Answered<SessionView> finish) {
  return StartUnary(context, caller, "Create", Right::kSessions, std::move(finish),
                    [s = context.sessions, r = std::move(request)](const UnaryCallPtr& call, const auto& done) {
                      NewSession wanted{r.id,   r.max_tokens, r.reserved_tokens, r.durable, call->who.owner,
                                        r.chat, r.system};
                      if (!r.chat && !r.system.empty()) {
                        return done(absl::InvalidArgumentError("a system turn is of a conversation: set chat too"));
                      }
                      FinishOpened(*s, *call, done, s->Create(wanted));
                    });
}

UnaryCallPtr StartFork(CallContext& context, const Caller& caller, ForkRequest request, Answered<SessionView> finish) {
  return StartOnSession(context, caller, "Fork", std::move(finish), std::move(request),
                        [s = context.sessions](const ForkRequest& r, const UnaryCallPtr& call, const auto& done) {
                          s->Fork(
                              call->call, r.session_id, r.new_id, r.max_tokens,
                              [s, call, done](const auto& view) { FinishOpened(*s, *call, done, view); },
                              r.reserved_tokens);
                        });
}

UnaryCallPtr StartRewind(CallContext& context, const Caller& caller, RewindRequest request,
                         Answered<SessionView> finish) {
  return StartOnSession(context, caller, "Rewind", std::move(finish), std::move(request),
                        [s = context.sessions](const RewindRequest& r, const UnaryCallPtr& call, const auto& done) {
                          s->Rewind(call->call, r.session_id, r.tokens, done);
                        });
}

UnaryCallPtr StartGet(CallContext& context, const Caller& caller, GetRequest request, Answered<SessionView> finish) {
  return StartOnSession(
      context, caller, "Get", std::move(finish), std::move(request),
      [s = context.sessions](const GetRequest& r, const auto&, const auto& done) { done(s->Get(r.session_id)); });
}

UnaryCallPtr StartPin(CallContext& context, const Caller& caller, PinRequest request, Answered<SessionView> finish) {
  return StartUnary(context, caller, "Pin", Right::kServer, std::move(finish),
                    [s = context.sessions, r = std::move(request)](const UnaryCallPtr& call, const auto& done) {
                      s->Pin(call->call, r.session_id, r.pinned, done);
                    });
}

UnaryCallPtr StartList(CallContext& context, const Caller& caller, Answered<std::vector<SessionView>> finish) {
  return StartUnary(context, caller, "List", Right::kSessions, std::move(finish),
                    [s = context.sessions](const UnaryCallPtr& call, const auto& done) {
                      std::vector<SessionView> views = s->List();
                      for (SessionView& prefix : s->ListPrefixes()) views.push_back(std::move(prefix));
                      if (call->who.role != Role::kAdmin) {
                        std::erase_if(views, [&](const SessionView& v) { return v.owner != call->who.owner; });
                      }
                      done(std::move(views));
                    });
}

UnaryCallPtr StartClose(CallContext& context, const Caller& caller, CloseRequest request,
                        Answered<CloseAnswer> finish) {
  return StartOnSession(context, caller, "Close", std::move(finish), std::move(request),
                        [s = context.sessions](const CloseRequest& r, const auto&, const auto& done) {
                          s->Close(r.session_id, r.delete_saved, [done](const absl::Status& closed) {
                            if (closed.ok()) return done(CloseAnswer{});
                            done(closed);
                          });
                        });
}

UnaryCallPtr StartSave(CallContext& context, const Caller& caller, SaveRequest request, Answered<SaveDone> finish) {
  return StartOnSession(context, caller, "Save", std::move(finish), std::move(request),
                        [s = context.sessions](const SaveRequest& r, const UnaryCallPtr& call, const auto& done) {
                          s->Save(call->call, r.session_id,
                                  [done](const SaveDone& saved) { FinishSaved(done, saved); });
                        });
}

UnaryCallPtr StartRestore(CallContext& context, const Caller& caller, RestoreRequest request,
                          Answered<SaveDone> finish) {
  return StartOnSession(context, caller, "Restore", std::move(finish), std::move(request),
                        [s = context.sessions](const RestoreRequest& r, const UnaryCallPtr& call, const auto& done) {
                          const auto finished = [done](const SaveDone& restored) { FinishSaved(done, restored); };
                          if (r.reread) return s->Reread(call->call, r.session_id, r.new_id, r.max_tokens, finished);
                          s->Restore(call->call, r.session_id, r.new_id, r.max_tokens, finished);
                        });
}

void StartTokenize(CallContext& context, const Caller& caller, TokenizeRequest request,
                   Answered<std::vector<int32_t>> finish) {
  const auto counted = [&context, finish = std::move(finish)](const absl::StatusOr<std::vector<int32_t>>& answer) {
    context.Count("Tokenize", answer.status());
    finish(answer);
  };
  const absl::Status status = context.Authenticate(caller, Right::kSessions).status();
  if (!status.ok()) return counted(status);
  const size_t bytes = request.text.size();
  const bool posted = context.workers->Post(bytes, [&context, counted, r = std::move(request)] {
    std::vector<int32_t> tokens;
    if (r.begin_of_text) tokens = context.begin_tokens;
    const absl::StatusOr<std::vector<int32_t>> text = context.Encode(r.text, r.special);
    if (!text.ok()) return counted(text.status());
    tokens.insert(tokens.end(), text->begin(), text->end());
    counted(std::move(tokens));
  });
  if (!posted) counted(QueueFull());
}

}  // namespace duo
