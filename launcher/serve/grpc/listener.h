// GrpcListener: the gRPC transport: an address that is listened on, with the services of duo.proto, health and
// reflection. Listens before there is a server: until Open calls are refused with how much of the model is loaded, and
// health says NOT_SERVING. Made, opened and destroyed on one thread, destroyed before the server is.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "launcher/serve/server.h"

namespace duo {

class GrpcListener {
 public:
  // Listens when it returns. UNAVAILABLE where the address cannot be had.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Listen(const ListenOptions& options);
  // How much of the model is loaded, 0 to 1. Any thread.
  void Loaded(double share);
  // From now on calls go to `server`'s context, and wait there until it runs; health says NOT_SERVING when it drains.
  // Before the server runs.
  void Open(Server& server);
  // Answers that are on their way get a moment; what is left is cut off.
  ~GrpcListener();

  // gRPC's own lines, which are about connections, go to this log instead of stderr; null: nowhere from then on. Of the
  // whole process, because gRPC's log is; the log outlives all servers or is taken away before.
  static void LogTo(const Log* log);

  int port() const;  // 0 for unix sockets

 private:
  explicit GrpcListener(const ListenOptions& options);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duo
