#include "launcher/serve/grpc/listener.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#if __has_include(<grpcpp/impl/service_type.h>)
#include <grpcpp/impl/service_type.h>
#else
#include <grpcpp/impl/codegen/service_type.h>  // before gRPC 1.53
#endif

#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"
#include "launcher/serve/grpc/services.h"

namespace duo {
namespace {

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const TlsFiles& tls) {
  if (!tls.on()) return grpc::InsecureServerCredentials();
  absl::StatusOr<std::string> certificate = ReadFile(tls.certificate);
  if (!certificate.ok()) return certificate.status();
  absl::StatusOr<std::string> key = ReadFile(tls.key);
  if (!key.ok()) return key.status();
  grpc::SslServerCredentialsOptions options(tls.client_ca.empty()
                                                ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  if (!tls.client_ca.empty()) {
    absl::StatusOr<std::string> ca = ReadFile(tls.client_ca);
    if (!ca.ok()) return ca.status();
    options.pem_root_certs = *ca;
  }
  options.pem_key_cert_pairs.push_back({*key, *certificate});
  return grpc::SslServerCredentials(options);
}

}  // namespace

struct GrpcListener::State {
  std::unique_ptr<grpc::Service> sessions, cluster;
  std::unique_ptr<grpc::Server> server;  // destroyed first: its calls use the services
  int port = 0;
};

GrpcListener::GrpcListener() : state_(std::make_unique<State>()) {}

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Listen(const ListenOptions& options, Server& server) {
  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> credentials = Credentials(options.tls);
  if (!credentials.ok()) return credentials.status();
  std::unique_ptr<GrpcListener> listener(new GrpcListener());
  State& s = *listener->state_;
  s.sessions = MakeSessionsService(server.context());
  s.cluster = MakeClusterService(server.context());
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.address, *credentials, &s.port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second server on the port is an error, not a surprise
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);  // notices clients that vanished
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16384);
  builder.RegisterService(s.sessions.get());
  builder.RegisterService(s.cluster.get());
  s.server = builder.BuildAndStart();
  if (s.server == nullptr || (s.port == 0 && options.address.rfind("unix:", 0) != 0)) {
    return absl::UnavailableError(absl::StrCat("--listen ", options.address,
                                               ": cannot listen there (is the port taken, the address this machine's, "
                                               "the certificate and key a pair?)"));
  }
  grpc::HealthCheckServiceInterface* health = s.server->GetHealthCheckService();
  health->SetServingStatus(true);
  health->SetServingStatus("duo.v1.Sessions", true);
  health->SetServingStatus("duo.v1.Cluster", true);
  server.WhenDraining([health] { health->SetServingStatus(false); });
  return listener;
}

GrpcListener::~GrpcListener() {
  if (state_->server == nullptr) return;
  state_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
  state_->server->Wait();
}

int GrpcListener::port() const { return state_->port; }

}  // namespace duo
