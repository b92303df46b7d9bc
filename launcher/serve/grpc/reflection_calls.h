// ReflectionCalls: the calls of gRPC's own reflection service, which takes its threads and reads without asking
// anybody: one that lasts longer than anybody needs is cancelled, so that its thread is another's. Thread-safe.
//
// Private to this folder. Outlives the server.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_interceptor.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include "kernels/base/seconds.h"

namespace duo {

class ReflectionCalls {
 public:
  explicit ReflectionCalls(double seconds) : seconds_(seconds) {}

  // For the server's builder: by it the calls become known.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> Factory() {
    return std::make_unique<Made>(*this);
  }
  // Cancels what is late; to be called about once a second.
  void Sweep() {
    std::lock_guard lock(mutex_);
    for (Call* call : calls_) {
      if (SecondsSince(call->begun) > seconds_) call->context->TryCancel();
    }
  }

 private:
  // Lives as long as its call does.
  struct Call final : grpc::experimental::Interceptor {
    Call(ReflectionCalls& of, grpc::ServerContext* context) : of(of), context(context) {
      std::lock_guard lock(of.mutex_);
      of.calls_.insert(this);
    }
    ~Call() override {
      std::lock_guard lock(of.mutex_);
      of.calls_.erase(this);
    }
    void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override { methods->Proceed(); }

    ReflectionCalls& of;
    grpc::ServerContext* const context;
    const Clock::time_point begun = Clock::now();
  };
  struct Made final : grpc::experimental::ServerInterceptorFactoryInterface {
    explicit Made(ReflectionCalls& of) : of(of) {}
    grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
      if (std::string_view(info->method()).rfind("/grpc.reflection.", 0) != 0) return nullptr;
      return new Call(of, static_cast<grpc::ServerContext*>(info->server_context()));
    }

    ReflectionCalls& of;
  };

  const double seconds_;
  std::mutex mutex_;
  std::set<Call*> calls_;  // guarded by mutex_
};

}  // namespace duo
