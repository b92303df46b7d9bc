// Server: the service from first listening to the last saved session. Rank 0 only; the other ranks call Engine::Follow.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/serve/ops/auth.h"
#include "launcher/terminal/log.h"
#include "runtime/engine/engine.h"
#include "runtime/text/tokenizer.h"

namespace duo {

struct ServerOptions {
  std::string listen = "127.0.0.1:50051";  // HOST:PORT (port 0: any), [V6]:PORT, unix:PATH
  std::string metrics;                     // HOST:PORT; empty: none
  std::string model_dir, device;
  std::string save_dir;   // empty: no saving
  bool insecure = false;  // a public address without TLS or tokens is meant
  TlsFiles tls;
  std::string token_file;  // empty: everyone may call
  int64_t max_session_tokens = 0;
  int64_t max_message_bytes = 4 << 20;
  int64_t max_append_bytes = int64_t{256} << 20;
  int64_t max_new_tokens = 65536;
  int max_queue = 256;
  int64_t checkpoint_tokens = 32768;
  double idle_seconds = 0;
  double grace_seconds = 30;  // that running questions are given when the server drains
};

class Server {
 public:
  // Takes over the engine: no other thread may touch it until the server is destroyed. Listens when it returns.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, Engine& engine,
                                                       const Tokenizer& tokenizer, std::vector<int32_t> end_tokens,
                                                       const Log& log);
  ~Server();  // drains, if that has not been done

  int port() const;  // that it listens on; 0 for unix sockets

  // Begins a graceful stop; any thread, also several times.
  void Drain();
  // Returns when a drain, however begun, is complete and the server has stopped.
  void Wait();

 private:
  Server();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duo
