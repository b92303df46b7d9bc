// A connection that can be cut in the middle of a call, as a client's is whose machine is switched off or whose network
// goes: the server sees the connection end, and no call on it is cancelled. Without TLS. One thread at a time.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace duo {

class CutConnection {
 public:
  // address: HOST:PORT or [V6]:PORT. UNAVAILABLE where nobody listens.
  static absl::StatusOr<std::unique_ptr<CutConnection>> Open(const std::string& address);
  ~CutConnection();
  CutConnection(const CutConnection&) = delete;
  CutConnection& operator=(const CutConnection&) = delete;

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  // Ends the connection; calls on it fail.
  void Cut();

 private:
  CutConnection(int own, std::shared_ptr<grpc::Channel> channel);

  const int own_;  // a second descriptor of the socket: gRPC closes the first whenever it likes
  const std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace duo
