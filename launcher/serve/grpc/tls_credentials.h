// The certificates of a gRPC server, which can be read again while it serves: connections that stand keep theirs, new
// ones get the new ones.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/serve/ops/auth.h"

namespace grpc {
class ServerCredentials;
}  // namespace grpc

namespace duo {

// What a server listens with; without TLS it is in clear.
struct Certificates {
  std::shared_ptr<grpc::ServerCredentials> credentials;
  // Reads and checks the files again; the function that it gives takes them, and cannot fail. Any thread, as long as
  // `credentials` lives.
  std::function<absl::StatusOr<std::function<void()>>()> prepare;
};

// An error where a file cannot be read, or they are no certificate and its key.
absl::StatusOr<Certificates> LoadCertificates(const TlsFiles& files);

}  // namespace duo
