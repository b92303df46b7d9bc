// MetricsPage: the text of GET /metrics over HTTP, for Prometheus' server to fetch. One request a connection, one
// connection at a time, each with a few seconds to ask and to take its answer; everything else is 404 or 405.
//
// Not prometheus-cpp's own server: its threads have stacks of 100 KB, less than the thread-local memory that a program
// linked with cuBLASLt has, so that it cannot start there.
//
// Owns a thread from Listen to destruction; `render` is called on it. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace duo {

class MetricsPage {
 public:
  // address HOST:PORT or [V6]:PORT; port 0 takes a free one. UNAVAILABLE when it cannot be listened on.
  static absl::StatusOr<std::unique_ptr<MetricsPage>> Listen(const std::string& address,
                                                             std::function<std::string()> render);
  ~MetricsPage();

  int port() const { return port_; }

 private:
  MetricsPage() = default;
  void Run();
  void Answer(int connection);

  std::function<std::string()> render_;
  int listener_ = -1, wake_ = -1;  // descriptors; wake_ becomes readable when the thread is to end
  int port_ = 0;
  std::thread thread_;
};

}  // namespace duo
