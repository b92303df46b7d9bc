// What the adapters from gRPC to launcher/serve/calls share. Private to this folder.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launcher/serve/calls/unary_call.h"
#include "launcher/serve/grpc/one_message.h"

namespace duo {

namespace pb = ::duo::v1;

// Who calls. What the call is named by its client goes back with the answer.
Caller CallerOf(grpc::CallbackServerContext& rpc);

void Fill(const SessionView& view, pb::Session* out);
void Fill(const DecodeReport& written, pb::SparseWriting* out);
void Fill(const std::vector<int32_t>& tokens, pb::TokenizeResponse* out);

// A method's call before its message is there: counted where it comes to nothing.
template <typename Request, typename Response>
class CallReactor : public OneMessage<Request, Response> {
 public:
  CallReactor(MessageGate& gate, CallContext& context, const char* method, Caller caller)
      : OneMessage<Request, Response>(gate), context_(context), caller_(std::move(caller)), method_(method) {}

 protected:
  CallContext& context_;
  const Caller caller_;

 private:
  void OnUnread(const absl::Status& why) override {
    context_.Count(method_, why, "", {"", caller_.request_id, caller_.trace});
  }

  const char* const method_;
};

// One unary call. start(context, caller, request, finish) begins it and gives a UnaryCallPtr; an answer is put into
// the response by Fill(answer, response).
template <typename Answer, typename Request, typename Response, typename Start>
class UnaryReactor final : public CallReactor<Request, Response> {
 public:
  UnaryReactor(MessageGate& gate, CallContext& context, const char* method, Caller caller, Start start)
      : CallReactor<Request, Response>(gate, context, method, std::move(caller)), start_(start) {}

 private:
  void OnMessage(const Request& request) override {
    call_ = start_(this->context_, this->caller_, request, [this](const absl::StatusOr<Answer>& answer) {
      if (!answer.ok()) return this->Finish(ToGrpc(answer.status()));
      Fill(*answer, &response_);
      this->StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
    });
  }
  void OnGone() override {
    if (call_ != nullptr) call_->Cancel();
  }

  const Start start_;
  UnaryCallPtr call_;  // null: it cannot be cancelled
  Response response_;
};

// A service of duo.proto.
class CallsService : public StreamedService {
 public:
  CallsService(Behind& behind, std::string name) : StreamedService(std::move(name)), behind_(behind) {}

 protected:
  // make(context, rpc) gives the reactor of a call that has somewhere to go to.
  template <typename Request, typename Response, typename Make>
  void AddStream(const char* method, Make make) {
    using Reactor = grpc::ServerBidiReactor<Request, Response>;
    Add<Request, Response>(method, [this, make](grpc::CallbackServerContext* rpc) -> Reactor* {
      if (CallContext* context = behind_.context) return make(*context, rpc);
      return new RefusedStream<Request, Response>(behind_.Loading());
    });
  }
  // make(caller) gives a OneMessage; who has no token is refused by the call's header.
  template <typename Request, typename Response, typename Make>
  void AddOne(const char* method, Make make) {
    using Reactor = grpc::ServerBidiReactor<Request, Response>;
    AddStream<Request, Response>(method, [method, make](CallContext& c, grpc::CallbackServerContext* rpc) -> Reactor* {
      const Caller caller = CallerOf(*rpc);
      if (const absl::Status known = c.Authenticate(caller, Right::kNumbers).status(); !known.ok()) {
        c.Count(method, known, "", {"", caller.request_id, caller.trace});
        return new RefusedStream<Request, Response>(known);
      }
      OneMessage<Request, Response>* reactor = make(c, caller);
      reactor->Begin(*rpc);
      return reactor;
    });
  }
  template <typename Answer, typename Request, typename Response, typename Start>
  void AddUnary(const char* method, Start start) {
    AddOne<Request, Response>(method, [this, method, start](CallContext& c, const Caller& caller) {
      return new UnaryReactor<Answer, Request, Response, Start>(behind_.messages, c, method, caller, start);
    });
  }

  Behind& behind_;
};

OneMessage<pb::AskRequest, pb::AskResponse>* MakeAsk(MessageGate& gate, CallContext& context, const Caller& caller);
grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress>* StartAppend(MessageGate& gate, CallContext& context,
                                                                            grpc::CallbackServerContext* rpc);
grpc::ServerBidiReactor<pb::TokenizePiece, pb::TokenizeResponse>* StartTokenizeText(MessageGate& gate,
                                                                                    CallContext& context,
                                                                                    grpc::CallbackServerContext* rpc);

}  // namespace duo
