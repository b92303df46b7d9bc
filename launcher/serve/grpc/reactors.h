// What the adapters from gRPC to launcher/serve/calls share. Private to this folder.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>

#include "duo/v1/duo.grpc.pb.h"
#include "launcher/serve/calls/unary_call.h"

namespace duo {

namespace pb = ::duo::v1;

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

Caller CallerOf(const grpc::CallbackServerContext& rpc);

void Fill(const SessionView& view, pb::Session* out);

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
template <typename Answer, typename Response, typename Start>
grpc::ServerUnaryReactor* Unary(Response* response, Start start) {
  return new UnaryReactor<Answer, Response>(response, std::move(start));
}

grpc::ServerWriteReactor<pb::AskResponse>* StartAsk(CallContext& context, grpc::CallbackServerContext* rpc,
                                                    const pb::AskRequest* request);
grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress>* StartAppend(CallContext& context,
                                                                            grpc::CallbackServerContext* rpc);

}  // namespace duo
