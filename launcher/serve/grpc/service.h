// The gRPC services of duo.proto. They check requests, cut text into tokens, and hand calls to Sessions on the engine's
// thread; results go back as they come. Everything that includes gRPC's headers on the server is service.cc,
// append_call.cc, cluster_service.cc and server.cc.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launcher/serve/ops/auth.h"
#include "launcher/serve/ops/metrics.h"
#include "launcher/serve/sessions/engine_thread.h"
#include "launcher/serve/sessions/sessions.h"
#include "launcher/terminal/log.h"
#include "runtime/engine/engine.h"
#include "runtime/text/tokenizer.h"

namespace grpc {
class CallbackServerContext;
class Service;
}  // namespace grpc

namespace duo {

struct ServiceLimits {
  int64_t append_bytes = int64_t{256} << 20;
  int64_t new_tokens = 65536;
};

struct DrainResult {
  int saved = 0, cancelled = 0;
  double seconds = 0;
};

// What the services work with. Made by the server before it listens; outlives every call. sessions and engine belong to
// the engine's thread, all else to any.
struct ServiceContext {
  EngineThread* thread = nullptr;
  Sessions* sessions = nullptr;
  Engine* engine = nullptr;
  const Tokenizer* tokenizer = nullptr;
  const TokenSet* bearer_tokens = nullptr;
  Metrics* metrics = nullptr;
  const Log* log = nullptr;
  ServiceLimits limits;
  std::vector<int32_t> end_tokens, begin_tokens;
  int64_t vocab = 0;
  std::string model, device;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  std::atomic<int64_t> calls{0}, refused{0};
  // Begins a graceful stop; `done` comes on the engine's thread when everything is saved.
  std::function<void(double grace_seconds, std::function<void(const DrainResult&)> done)> drain;

  // Counts and logs a call's end.
  void Count(const char* method, const absl::Status& status);
  // The token check of every call.
  absl::Status Authenticate(const grpc::CallbackServerContext& context) const;
};

std::unique_ptr<grpc::Service> MakeSessionsService(ServiceContext& context);
std::unique_ptr<grpc::Service> MakeClusterService(ServiceContext& context);

}  // namespace duo
