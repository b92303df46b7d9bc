// What the adapters from gRPC to launcher/serve/calls share. Private to this folder.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>

#include "duo/v1/duo.grpc.pb.h"
#include "launcher/serve/calls/unary_call.h"
#include "launcher/serve/grpc/behind.h"

namespace duo {

namespace pb = ::duo::v1;

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

// Who calls. What the call is named by its client goes back with the answer.
Caller CallerOf(grpc::CallbackServerContext& rpc);

void Fill(const SessionView& view, pb::Session* out);
void Fill(const DecodeReport& written, pb::SparseWriting* out);

// One unary call: lives until gRPC is done with it. An answer is put into the response by Fill(answer, response).
template <typename Answer, typename Response>
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  // `start(finish)` begins the call.
  template <typename Start>
  UnaryReactor(Response* response, Start start) {
    call_ = start([this, response](const absl::StatusOr<Answer>& answer) {
      if (answer.ok()) Fill(*answer, response);
      this->Finish(ToGrpc(answer.status()));
    });
  }
  void OnCancel() override { call_->Cancel(); }
  void OnDone() override { delete this; }

 private:
  UnaryCallPtr call_;
};
// start(context, finish) begins the call, where there is one to go to.
template <typename Answer, typename Response, typename Start>
grpc::ServerUnaryReactor* Unary(const Behind& behind, grpc::CallbackServerContext* rpc, Response* response,
                                Start start) {
  if (CallContext* context = behind.context) {
    return new UnaryReactor<Answer, Response>(
        response, [&](Answered<Answer> finish) { return start(*context, std::move(finish)); });
  }
  grpc::ServerUnaryReactor* reactor = rpc->DefaultReactor();
  reactor->Finish(ToGrpc(behind.Loading()));
  return reactor;
}

// A stream that ends as it begins. Base: the reactor of its kind.
template <typename Base>
class RefusedStream final : public Base {
 public:
  explicit RefusedStream(const absl::Status& why) { this->Finish(ToGrpc(why)); }
  void OnDone() override { delete this; }
};

grpc::ServerWriteReactor<pb::AskResponse>* StartAsk(CallContext& context, grpc::CallbackServerContext* rpc,
                                                    const pb::AskRequest* request);
grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress>* StartAppend(CallContext& context,
                                                                            grpc::CallbackServerContext* rpc);
grpc::ServerBidiReactor<pb::TokenizePiece, pb::TokenizeResponse>* StartTokenizeText(CallContext& context,
                                                                                    grpc::CallbackServerContext* rpc);

}  // namespace duo
