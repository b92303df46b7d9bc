// Metrics: the server's numbers for Prometheus, in prometheus-cpp's registry, served on an address of their own.
// Observations may come from any thread; gauges and counters are set from a snapshot that the engine's thread makes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/serve/sessions/sessions.h"
#include "runtime/engine/engine.h"

namespace duo {

struct MetricsSnapshot {
  EngineStats engine;
  SessionsStats sessions;
  bool draining = false;
};

// What one rank holds: retrieval heads, split ones in parts, and the bytes of a whole-head page id, of a split page id
// and of a ring set there.
struct RankKv {
  double retrieval_heads = 0;
  int64_t page_bytes = 0, split_page_bytes = 0, ring_bytes = 0;
};
std::vector<RankKv> RankKvOf(const Engine& engine);

// Bytes that are in use on one rank.
struct KvInUse {
  int64_t whole = 0, split = 0, rings = 0;
};
KvInUse InUse(const RankKv& rank, const EngineStats& stats);

class Metrics {
 public:
  // address HOST:PORT; empty: counted, but not served. commit: that the program was built from.
  static absl::StatusOr<std::unique_ptr<Metrics>> Start(const std::string& address, std::vector<RankKv> ranks,
                                                        const Balance& balance, const std::string& commit = "");
  ~Metrics();
  // Whether Start could serve there.
  static absl::Status Check(const std::string& address);

  int port() const;  // that it is served on; 0 when it is not

  void CountCall(const std::string& method, const std::string& code);
  void ObserveFirstToken(double seconds);
  void ObserveToken(double seconds);
  void ObserveQueue(double seconds);
  void ObserveAppend(double seconds);
  void ObserveStep(const EngineStats& counted);
  void Update(const MetricsSnapshot& snapshot);
  std::string Page() const;  // as Prometheus reads it

 private:
  Metrics();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duo
