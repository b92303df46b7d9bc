#include "launcher/client/channel.h"

#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "kernels/base/read_file.h"

namespace duo {
namespace {

// Whether an address is of this machine itself: no proxy of the environment leads to it.
bool IsLoopback(const std::string& address) {
  return absl::StartsWith(address, "127.") || absl::StartsWith(address, "localhost:") ||
         absl::StartsWith(address, "[::1]:") || absl::StartsWith(address, "unix:");
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const ClientOptions& options) {
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!options.tls_ca.empty()) {
    grpc::SslCredentialsOptions ssl;
    const std::pair<const std::string*, std::string*> files[] = {{&options.tls_ca, &ssl.pem_root_certs},
                                                                 {&options.tls_cert, &ssl.pem_cert_chain},
                                                                 {&options.tls_key, &ssl.pem_private_key}};
    for (const auto& [file, into] : files) {
      if (file->empty()) continue;
      absl::StatusOr<std::string> text = ReadFile(*file);
      if (!text.ok()) return text.status();
      *into = *text;
    }
    credentials = grpc::SslCredentials(ssl);
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (IsLoopback(options.server)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(options.server, credentials, arguments);
}

std::unique_ptr<grpc::ClientContext> MakeContext(const ClientOptions& options) {
  auto context = std::make_unique<grpc::ClientContext>();
  if (!options.token.empty()) context->AddMetadata("authorization", "Bearer " + options.token);
  if (options.timeout > 0) {
    const auto limit = std::chrono::milliseconds(static_cast<int64_t>(options.timeout * 1e3));
    context->set_deadline(std::chrono::system_clock::now() + limit);
  }
  return context;
}

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace duo
