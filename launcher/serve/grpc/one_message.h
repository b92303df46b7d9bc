// OneMessage: a call of whose client one message comes. gRPC by itself reads such a message before anybody is asked,
// whole and as many as come; here the call begins with its header: who has no token is refused before a byte of the
// message is taken, and the message is read when the gate has a place for it (launcher/serve/calls/message_gate.h).
// For gRPC it is a stream of one message, which on the wire is the same.
//
// Private to this folder. Lives until gRPC is done with it, which is after Finish.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <utility>

#include "duo/v1/duo.grpc.pb.h"  // and with it whatever this version of gRPC makes services from
#include "launcher/serve/calls/message_gate.h"
#include "launcher/serve/grpc/behind.h"

namespace duo {

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

template <typename Request, typename Response>
class OneMessage : public grpc::ServerBidiReactor<Request, Response> {
 public:
  explicit OneMessage(MessageGate& gate) : gate_(gate) {}
  ~OneMessage() override { gate_.Leave(ticket_); }

  // Once, before gRPC has the reactor.
  void Begin(const grpc::CallbackServerContext& rpc) {
    ticket_ = MessageGate::Make(
        rpc.peer(), [this] { Read(); }, [this](const absl::Status& why) { Refuse(why); });
    gate_.Enter(ticket_);
  }
  void OnReadDone(bool ok) final {
    gate_.Leave(ticket_);
    {
      std::lock_guard lock(mutex_);
      if (ended_) return;
      ended_ = !ok;
    }
    if (!ok) return End(Unread());
    OnMessage(request_);
    {
      std::lock_guard lock(mutex_);
      begun_ = true;
      if (!gone_) return;
    }
    OnGone();
  }
  void OnCancel() final {
    gate_.Leave(ticket_);
    bool begun, unread;
    {
      std::lock_guard lock(mutex_);
      gone_ = true;
      begun = begun_;
      unread = !reading_ && !ended_;  // nothing else ends it
      ended_ |= unread;
    }
    if (begun) OnGone();
    if (unread) End(absl::CancelledError("the call was cancelled"));
  }
  void OnDone() override { delete this; }

 protected:
  virtual void OnMessage(const Request& request) = 0;  // begins what ends with Finish
  virtual void OnUnread(const absl::Status&) {}        // instead, for counting
  virtual void OnGone() {}                             // after OnMessage, once: the client is gone

 private:
  void Read() {
    {
      std::lock_guard lock(mutex_);
      reading_ = true;
    }
    this->StartRead(&request_);
  }
  void Refuse(const absl::Status& why) {
    {
      std::lock_guard lock(mutex_);
      if (std::exchange(ended_, true)) return;
    }
    End(why);
  }
  void End(const absl::Status& why) {
    OnUnread(why);
    this->Finish(ToGrpc(why));
  }
  absl::Status Unread() {
    std::lock_guard lock(mutex_);
    if (gone_) return absl::CancelledError("the call was cancelled");
    return absl::InvalidArgumentError("the call's message did not come, or is none of this method");
  }

  MessageGate& gate_;
  MessageGate::TicketPtr ticket_;
  Request request_;
  std::mutex mutex_;  // guards what follows
  bool reading_ = false, ended_ = false, begun_ = false, gone_ = false;
};

// A stream that ends as it begins.
template <typename Request, typename Response>
class RefusedStream final : public grpc::ServerBidiReactor<Request, Response> {
 public:
  explicit RefusedStream(const absl::Status& why) { this->Finish(ToGrpc(why)); }
  void OnDone() override { delete this; }
};

// A service whose methods are added one by one, each of them as a stream.
class StreamedService : public grpc::Service {
 public:
  explicit StreamedService(std::string name) : name_(std::move(name)) {}

 protected:
  // make(rpc) gives the reactor of a call.
  template <typename Request, typename Response>
  void Add(const std::string& method,
           std::function<grpc::ServerBidiReactor<Request, Response>*(grpc::CallbackServerContext*)> make) {
    paths_.push_back("/" + name_ + "/" + method);
    AddMethod(new grpc::internal::RpcServiceMethod(paths_.back().c_str(), grpc::internal::RpcMethod::BIDI_STREAMING,
                                                   nullptr));
    MarkMethodCallback(static_cast<int>(paths_.size()) - 1,
                       new grpc::internal::CallbackBidiHandler<Request, Response>(std::move(make)));
  }

 private:
  const std::string name_;
  std::deque<std::string> paths_;  // gRPC points to them
};

}  // namespace duo
