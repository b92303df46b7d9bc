// A channel to a server as the options name it: with TLS where they give a certificate authority, else without.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/statusor.h"
#include "launcher/client/client.h"

namespace duo {

// Does not connect yet. An error: a file of the options cannot be read.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const ClientOptions& options);

}  // namespace duo
