// A channel to a server as the options name it: with TLS where they give a certificate authority, else without; and
// what all calls over it carry. For those who speak gRPC themselves.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/statusor.h"
#include "launcher/client/client.h"

namespace duo {

// Does not connect yet, and shares its connection with no other. An error: a file of the options cannot be read.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const ClientOptions& options);
// With the token and the time limit of the options.
std::unique_ptr<grpc::ClientContext> MakeContext(const ClientOptions& options);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace duo
