// UnaryCall: one call with one answer: the check of its caller, its way to the engine's thread and back, its
// cancellation. The verbs (session_calls.h, cluster_calls.h) start one each and give it to their transport, which
// cancels it when the client is gone. Any thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "launcher/serve/calls/context.h"

namespace duo {

// What ends a call: given once, from any thread, perhaps before the function that began the call returns.
template <typename Answer>
using Answered = std::function<void(const absl::StatusOr<Answer>&)>;

class UnaryCall : public std::enable_shared_from_this<UnaryCall> {
 public:
  explicit UnaryCall(CallContext& context) : context_(context) {}

  // The client is gone or its deadline is over; also after the end.
  void Cancel() {
    gone_ = true;
    context_.thread->Urgent([self = shared_from_this()] { self->context_.sessions->Cancel(self->call); });
  }
  bool gone() const { return gone_; }

  const CallPtr call = std::make_shared<Call>();
  Identity who;  // set before the call is given to anybody

 private:
  CallContext& context_;
  std::atomic<bool> gone_{false};
};
using UnaryCallPtr = std::shared_ptr<UnaryCall>;

// Checks the caller and runs `work(call, finish)` on the engine's thread; it gives `finish` the answer in the end.
// method: by which the call is counted. right: that the caller must have.
template <typename Answer, typename Work>
UnaryCallPtr StartUnary(CallContext& context, const Caller& caller, const char* method, Right right,
                        Answered<Answer> finish, Work work) {
  auto call = std::make_shared<UnaryCall>(context);
  absl::StatusOr<Identity> who = context.Authenticate(caller, right);
  if (who.ok()) call->who = *who;
  call->call->request = caller.request_id;
  call->call->trace = caller.trace;
  Answered<Answer> counted = [&context, method, owner = who.ok() ? who->owner : "", call,
                              finish = std::move(finish)](const absl::StatusOr<Answer>& answer) {
    context.Count(method, answer.status(), owner, {"", call->call->request, call->call->trace});
    finish(answer);
  };
  if (!who.ok()) {
    counted(who.status());
  } else if (!context.thread->Post([call, counted, work = std::move(work)] { work(call, counted); })) {
    counted(QueueFull());
  }
  return call;
}

}  // namespace duo
