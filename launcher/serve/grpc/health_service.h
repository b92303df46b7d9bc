// HealthService: grpc.health.v1.Health: whether the server and each of its services serve. Needs no token, so its
// messages come through a gate of their own, which gRPC's service of this name does not have. Thread-safe.
#pragma once

#include <mutex>
#include <set>
#include <string>

#include "launcher/serve/grpc/one_message.h"

namespace duo {

class HealthWatch;

class HealthService final : public StreamedService {
 public:
  explicit HealthService(MessageGate& gate);

  // Of the server and of each service.
  void SetServing(bool serving);

 private:
  friend class HealthWatch;
  // A value of HealthCheckResponse::ServingStatus; SERVICE_UNKNOWN of a name that there is not.
  int StatusOf(const std::string& service) const;

  MessageGate& gate_;
  mutable std::mutex mutex_;  // guards what follows; watches are told with it held
  bool serving_ = false;
  std::set<HealthWatch*> watches_;
};

}  // namespace duo
