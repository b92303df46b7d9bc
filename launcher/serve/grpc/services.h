// The gRPC services of duo.proto: adapters that turn messages into the plain structs of launcher/serve/calls and back.
// `behind` outlives them.
#pragma once

#include <memory>

#include "launcher/serve/grpc/behind.h"

namespace grpc {
class Service;
}  // namespace grpc

namespace duo {

std::unique_ptr<grpc::Service> MakeSessionsService(Behind& behind);
std::unique_ptr<grpc::Service> MakeClusterService(Behind& behind);

}  // namespace duo
