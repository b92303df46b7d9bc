#include "launcher/serve/grpc/listener.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#if __has_include(<grpcpp/impl/service_type.h>)
#include <grpcpp/impl/service_type.h>
#else
#include <grpcpp/impl/codegen/service_type.h>  // before gRPC 1.53
#endif

#include <grpc/support/log.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "launcher/serve/grpc/health_service.h"
#include "launcher/serve/grpc/reflection_calls.h"
#include "launcher/serve/grpc/services.h"
#include "launcher/serve/grpc/tls_credentials.h"

namespace duo {
namespace {

constexpr int kFewestMessages = 16, kMostMessages = 256, kMostProbes = 32;  // on their way at once
constexpr int kReflectionThreads = 16;

void Configure(const ListenOptions& options, const Certificates& certificates, grpc::ServerBuilder& builder,
               int* port) {
  builder.AddListeningPort(options.address, certificates.credentials, port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second server on the port is an error, not a surprise
}

absl::Status CannotListen(const ListenOptions& options) {
  return absl::UnavailableError(absl::StrCat("--listen ", options.address,
                                             ": cannot listen there (is the port taken, the address this machine's?)"));
}

bool Listens(const ListenOptions& options, const grpc::Server* server, int port) {
  return server != nullptr && (port != 0 || options.address.rfind("unix:", 0) == 0);
}

// Of what all messages on their way may have, so many places, and of these to one connection a quarter.
MessageGate::Limits GateLimits(const ListenOptions& options, int most) {
  MessageGate::Limits limits;
  limits.message_bytes = options.max_message_bytes;
  limits.at_once = static_cast<int>(std::clamp<int64_t>(
      options.messages_bytes / std::max<int64_t>(options.max_message_bytes, 1), kFewestMessages, most));
  limits.of_connection = limits.at_once / 4;
  limits.waiting = std::max(limits.waiting, 2 * options.max_streams);  // one connection's calls do not fill it
  limits.read_seconds = std::min(limits.read_seconds, options.message_seconds);
  limits.wait_seconds = std::min(limits.wait_seconds, limits.read_seconds);
  return limits;
}

// gRPC calls a plain function, so where its lines go can only be a variable of the process.
std::atomic<const Log*> grpc_log{nullptr};

void TakeLine(gpr_log_func_args* line) {
  const Log* log = grpc_log;
  if (log == nullptr) return;
  const std::string file = line->file;
  const std::string where = absl::StrCat(file.substr(file.rfind('/') + 1), ":", line->line);
  // What it calls an error is mostly a client that was no client.
  if (line->severity == GPR_LOG_SEVERITY_ERROR) {
    log->Warn("gRPC says", {{"text", line->message}, {"where", where}});
  } else {
    log->Debug("gRPC says", {{"text", line->message}, {"where", where}});
  }
}

}  // namespace

struct GrpcListener::State {
  explicit State(const ListenOptions& options)
      : behind(GateLimits(options, kMostMessages), GateLimits(options, kMostProbes)),
        health(behind.probes),
        reflections(options.message_seconds) {}

  void Sweep() {
    std::unique_lock lock(mutex);
    while (!stopped.wait_for(lock, std::chrono::milliseconds(500), [this] { return stopping; })) {
      lock.unlock();
      behind.messages.Sweep();
      behind.probes.Sweep();
      reflections.Sweep();
      lock.lock();
    }
  }

  Certificates certificates;
  Behind behind;
  HealthService health;
  ReflectionCalls reflections;
  std::unique_ptr<grpc::Service> sessions, cluster;
  std::unique_ptr<grpc::Server> server;  // destroyed first: its calls use the services
  int port = 0;

  std::mutex mutex;
  std::condition_variable stopped;
  bool stopping = false;  // guarded by mutex
  std::thread sweeper;    // refuses messages that do not come in time
};

GrpcListener::GrpcListener(const ListenOptions& options) : state_(std::make_unique<State>(options)) {}

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Listen(const ListenOptions& options) {
  absl::StatusOr<Certificates> certificates = LoadCertificates(options.tls);
  if (!certificates.ok()) return certificates.status();
  std::unique_ptr<GrpcListener> listener(new GrpcListener(options));
  State& s = *listener->state_;
  s.certificates = *std::move(certificates);
  s.sessions = MakeSessionsService(s.behind);
  s.cluster = MakeClusterService(s.behind);
  grpc::EnableDefaultHealthCheckService(false);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  Configure(options, s.certificates, builder, &s.port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  // What a stream may send before its message is asked for stays the 64 KiB that HTTP/2 begins with: measuring the
  // connection would make it megabytes.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  // Reflection, gRPC's own and the only service of the kind, has a thread for each call and reads without being asked.
  grpc::ResourceQuota quota("duo");
  quota.SetMaxThreads(kReflectionThreads);
  builder.SetResourceQuota(quota);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(s.reflections.Factory());
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);  // notices clients that vanished
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16384);
  builder.RegisterService(s.sessions.get());
  builder.RegisterService(s.cluster.get());
  builder.RegisterService(&s.health);
  s.server = builder.BuildAndStart();
  if (!Listens(options, s.server.get(), s.port)) return CannotListen(options);
  s.sweeper = std::thread([&s] { s.Sweep(); });
  return listener;
}

void GrpcListener::LogTo(const Log* log) {
  grpc_log = log;
  gpr_set_log_function(TakeLine);
}

void GrpcListener::Loaded(double share) { state_->behind.loaded = share; }

void GrpcListener::Open(Server& server) {
  State& s = *state_;
  s.behind.context = &server.context();
  HealthService* health = &s.health;
  health->SetServing(true);
  server.WhenDraining([health] { health->SetServing(false); });
  server.WhenServingOn([health] { health->SetServing(true); });
  server.WhenReloading(s.certificates.prepare);
}

GrpcListener::~GrpcListener() {
  if (state_->server == nullptr) return;
  state_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
  state_->server->Wait();
  if (!state_->sweeper.joinable()) return;
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->stopped.notify_all();
  state_->sweeper.join();
}

int GrpcListener::port() const { return state_->port; }

}  // namespace duo
