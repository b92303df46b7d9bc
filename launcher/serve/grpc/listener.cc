#include "launcher/serve/grpc/listener.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#if __has_include(<grpcpp/impl/service_type.h>)
#include <grpcpp/impl/service_type.h>
#else
#include <grpcpp/impl/codegen/service_type.h>  // before gRPC 1.53
#endif

#include <grpc/support/log.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.pb.h"
#include "launcher/serve/grpc/services.h"
#include "launcher/serve/grpc/tls_credentials.h"

namespace duo {
namespace {

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

// Of the server and of each service by its name.
void SetServing(grpc::HealthCheckServiceInterface* health, bool serving) {
  health->SetServingStatus(serving);
  health->SetServingStatus("duo.v1.Sessions", serving);
  health->SetServingStatus("duo.v1.Cluster", serving);
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
  Certificates certificates;
  Behind behind;
  std::unique_ptr<grpc::Service> sessions, cluster;
  std::unique_ptr<grpc::Server> server;  // destroyed first: its calls use the services
  int port = 0;
};

GrpcListener::GrpcListener() : state_(std::make_unique<State>()) {}

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Listen(const ListenOptions& options) {
  absl::StatusOr<Certificates> certificates = LoadCertificates(options.tls);
  if (!certificates.ok()) return certificates.status();
  std::unique_ptr<GrpcListener> listener(new GrpcListener());
  State& s = *listener->state_;
  s.certificates = *std::move(certificates);
  s.sessions = MakeSessionsService(s.behind);
  s.cluster = MakeClusterService(s.behind);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::health::v1::HealthCheckRequest::descriptor();  // linked, and so known to reflection
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  Configure(options, s.certificates, builder, &s.port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);  // notices clients that vanished
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16384);
  builder.RegisterService(s.sessions.get());
  builder.RegisterService(s.cluster.get());
  s.server = builder.BuildAndStart();
  if (!Listens(options, s.server.get(), s.port)) return CannotListen(options);
  SetServing(s.server->GetHealthCheckService(), false);
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
  grpc::HealthCheckServiceInterface* health = s.server->GetHealthCheckService();
  SetServing(health, true);
  server.WhenDraining([health] { health->SetServingStatus(false); });
  server.WhenServingOn([health] { health->SetServingStatus(true); });
  server.WhenReloading(s.certificates.prepare);
}

GrpcListener::~GrpcListener() {
  if (state_->server == nullptr) return;
  state_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
  state_->server->Wait();
}

int GrpcListener::port() const { return state_->port; }

}  // namespace duo
