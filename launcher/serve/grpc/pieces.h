// Pieces: the messages of a client that sends several, one asked for at a time. The first comes through the gate like
// any call's message, and where the client is not to be idle, so do all. Otherwise a later one may be as long on its
// way as the client likes, up to --upload-idle, so what it may have counts as text that has come (UploadBudget) until
// it is there, and is counted by its own size.
//
// Private to this folder. Asked by one thread at a time; Done may come from another.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "launcher/serve/calls/context.h"
#include "launcher/serve/calls/message_gate.h"
#include "launcher/serve/sessions/upload_budget.h"

namespace duo {

class Pieces {
 public:
  // idle: the client may take its time between its messages.
  Pieces(MessageGate& gate, const CallContext& context, const grpc::CallbackServerContext& rpc, bool idle)
      : gate_(gate),
        idle_(idle),
        peer_(rpc.peer()),
        budget_(context.sessions->uploads()),
        // Of a small budget a part, so that one piece is not all of it.
        most_(std::min(context.limits.message_bytes, budget_->limit() / 16)) {}
  ~Pieces() { Done(); }

  // go: the next message may be read. refuse: it may not, or has not come in time.
  void Ask(std::function<void()> go, std::function<void(const absl::Status&)> refuse) {
    if (!std::exchange(asked_, true) || !idle_) {
      MessageGate::TicketPtr ticket = MessageGate::Make(peer_, std::move(go), std::move(refuse));
      {
        std::lock_guard lock(mutex_);
        at_gate_ = ticket;
      }
      return gate_.Enter(ticket);
    }
    if (!budget_->Take(most_)) return refuse(budget_->Full());
    held_ = most_;
    go();
  }
  // It is there, or is waited for no longer. Any number of times.
  void Done() {
    MessageGate::TicketPtr ticket;
    {
      std::lock_guard lock(mutex_);
      ticket = at_gate_;
    }
    gate_.Leave(ticket);
    budget_->Give(held_.exchange(0));
  }

 private:
  MessageGate& gate_;
  const bool idle_;
  const std::string peer_;
  const std::shared_ptr<UploadBudget> budget_;
  const int64_t most_;
  bool asked_ = false;
  std::mutex mutex_;
  MessageGate::TicketPtr at_gate_;  // guarded by mutex_
  std::atomic<int64_t> held_{0};
};

}  // namespace duo
