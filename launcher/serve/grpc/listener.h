// GrpcListener: the gRPC transport: an address that is listened on, with the services of duo.proto, health and
// reflection. Calls go to `server`'s context and wait there until it runs. Made and destroyed on one thread, before the
// server runs and before it is destroyed.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "launcher/serve/server.h"

namespace duo {

class GrpcListener {
 public:
  // Listens when it returns; health says NOT_SERVING when the server drains. UNAVAILABLE where the address cannot be
  // had.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Listen(const ListenOptions& options, Server& server);
  // Whether Listen would: the certificates are good, the address can be had. Before there is a server.
  static absl::Status Check(const ListenOptions& options);
  // Answers that are on their way get a moment; what is left is cut off.
  ~GrpcListener();

  int port() const;  // 0 for unix sockets

 private:
  GrpcListener();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duo
