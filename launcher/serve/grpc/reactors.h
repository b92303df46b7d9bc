// What the call handlers share. Private to the files that implement the services.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "duo/v1/duo.grpc.pb.h"
#include "launcher/serve/grpc/service.h"

namespace duo {

namespace pb = ::duo::v1;

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

void Fill(const SessionView& view, pb::Session* out);

// Token ids from a client.
absl::Status CheckTokens(const ServiceContext& context, const std::vector<int32_t>& tokens);

inline absl::Status QueueFull() {
  return absl::ResourceExhaustedError("the server's queue of calls is full; try again later");
}

// One unary call: lives until gRPC is done with it. Cancellation reaches Sessions through `call`.
class Unary final : public grpc::ServerUnaryReactor {
 public:
  Unary(ServiceContext& context, grpc::CallbackServerContext* rpc, const char* method)
      : call(std::make_shared<Call>()), rpc_(rpc), context_(context), method_(method) {}

  // Runs `work` on the engine's thread; it must call End in the end. Ends at once when the caller may not call.
  template <typename Work>
  Unary* Run(Work work) {
    if (absl::Status s = context_.Authenticate(*rpc_); !s.ok()) {
      End(s);
    } else if (!context_.thread->Post(std::move(work))) {
      End(QueueFull());
    }
    return this;
  }
  void End(const absl::Status& status) {
    context_.Count(method_, status);
    Finish(ToGrpc(status));
  }
  bool gone() const { return rpc_->IsCancelled(); }
  void OnCancel() override {
    context_.thread->Urgent([&context = context_, call = call] { context.sessions->Cancel(call); });
  }
  void OnDone() override { delete this; }

  const CallPtr call;

 private:
  grpc::CallbackServerContext* rpc_;
  ServiceContext& context_;
  const char* method_;
};

grpc::ServerWriteReactor<pb::AskResponse>* StartAsk(ServiceContext& context, grpc::CallbackServerContext* rpc,
                                                    const pb::AskRequest* request);
grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress>* StartAppend(ServiceContext& context,
                                                                            grpc::CallbackServerContext* rpc);

}  // namespace duo
