// The gRPC services of duo.proto: adapters that turn messages into the plain structs of launcher/serve/calls and back.
// `context` outlives them.
#pragma once

#include <memory>

#include "launcher/serve/calls/context.h"

namespace grpc {
class Service;
}  // namespace grpc

namespace duo {

std::unique_ptr<grpc::Service> MakeSessionsService(CallContext& context);
std::unique_ptr<grpc::Service> MakeClusterService(CallContext& context);

}  // namespace duo
