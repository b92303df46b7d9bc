#include "launcher/serve/grpc/health_service.h"

#include "grpc/health/v1/health.pb.h"

namespace duo {
namespace {

namespace pb = ::grpc::health::v1;

using Reactor = grpc::ServerBidiReactor<pb::HealthCheckRequest, pb::HealthCheckResponse>;

class HealthCheck final : public OneMessage<pb::HealthCheckRequest, pb::HealthCheckResponse> {
 public:
  HealthCheck(MessageGate& gate, std::function<int(const std::string&)> status)
      : OneMessage(gate), status_(std::move(status)) {}

 private:
  void OnMessage(const pb::HealthCheckRequest& request) override {
    const int status = status_(request.service());
    if (status == pb::HealthCheckResponse::SERVICE_UNKNOWN) {
      return Finish({grpc::StatusCode::NOT_FOUND, "there is no service of this name"});
    }
    response_.set_status(static_cast<pb::HealthCheckResponse::ServingStatus>(status));
    StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
  }

  const std::function<int(const std::string&)> status_;
  pb::HealthCheckResponse response_;
};

}  // namespace

// What a client watches: the state of now, and again whenever it changes, until the client is gone.
class HealthWatch final : public OneMessage<pb::HealthCheckRequest, pb::HealthCheckResponse> {
 public:
  HealthWatch(MessageGate& gate, HealthService& service) : OneMessage(gate), service_(service) {}
  ~HealthWatch() override {
    std::lock_guard lock(service_.mutex_);
    service_.watches_.erase(this);
  }

  // With the service's mutex held.
  void Tell(int status) {
    if (over_ || writing_ || status == told_) return;
    told_ = status;
    writing_ = true;
    response_.set_status(static_cast<pb::HealthCheckResponse::ServingStatus>(status));
    StartWrite(&response_);
  }
  const std::string& of() const { return of_; }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(service_.mutex_);
    writing_ = false;
    if (ok && !over_) return Tell(service_.StatusOf(of_));
    End();
  }

 private:
  void OnMessage(const pb::HealthCheckRequest& request) override {
    std::lock_guard lock(service_.mutex_);
    of_ = request.service();
    service_.watches_.insert(this);
    Tell(service_.StatusOf(of_));
  }
  void OnGone() override {
    std::lock_guard lock(service_.mutex_);
    over_ = true;
    if (!writing_) End();
  }
  void End() {
    if (std::exchange(finished_, true)) return;
    over_ = true;
    Finish({grpc::StatusCode::CANCELLED, "the call was cancelled"});
  }

  HealthService& service_;
  std::string of_;  // written before it is one of service_.watches_
  // Guarded by the service's mutex.
  int told_ = -1;
  bool writing_ = false, over_ = false, finished_ = false;
  pb::HealthCheckResponse response_;
};

HealthService::HealthService(MessageGate& gate) : StreamedService("grpc.health.v1.Health"), gate_(gate) {
  Add<pb::HealthCheckRequest, pb::HealthCheckResponse>("Check", [this](grpc::CallbackServerContext* rpc) -> Reactor* {
    auto* check = new HealthCheck(gate_, [this](const std::string& service) {
      std::lock_guard lock(mutex_);
      return StatusOf(service);
    });
    check->Begin(*rpc);
    return check;
  });
  Add<pb::HealthCheckRequest, pb::HealthCheckResponse>("Watch", [this](grpc::CallbackServerContext* rpc) -> Reactor* {
    auto* watch = new HealthWatch(gate_, *this);
    watch->Begin(*rpc);
    return watch;
  });
}

void HealthService::SetServing(bool serving) {
  std::lock_guard lock(mutex_);
  serving_ = serving;
  for (HealthWatch* watch : watches_) watch->Tell(StatusOf(watch->of()));
}

int HealthService::StatusOf(const std::string& service) const {
  if (!service.empty() && service != "duo.v1.Sessions" && service != "duo.v1.Cluster") {
    return pb::HealthCheckResponse::SERVICE_UNKNOWN;
  }
  return serving_ ? pb::HealthCheckResponse::SERVING : pb::HealthCheckResponse::NOT_SERVING;
}

}  // namespace duo
