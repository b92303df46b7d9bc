// Listener: the HTTP/1.1 server: an address, one thread that moves all bytes, and connections that hand requests to the
// router's handlers on that thread. Knows nothing of models or sessions.
//
// Owns its thread from Listen to destruction. Handlers are called on it and must not block.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "launcher/serve/http/wire/gate.h"
#include "launcher/serve/http/wire/router.h"
#include "launcher/serve/ops/auth.h"

namespace duo::http {

struct ListenerOptions {
  std::string address;  // HOST:PORT or [V6]:PORT; port 0: any
  TlsFiles tls;
  std::vector<std::string> origins;  // GateRules
  Router router;
  // May this request come in? Asked when its header is there, for every route that is not open.
  std::function<std::optional<Refusal>(const Request&)> authenticate;
  std::function<std::string(const Refusal&)> error_body;                 // as JSON
  std::function<void(const Request&, int status)> on_refused = nullptr;  // for counting
  // Of every request that was answered, 499 where its client had gone; for a log.
  std::function<void(const Request&, int status, double seconds)> on_ended = nullptr;

  size_t max_header = 16 << 10;
  int64_t max_body = 64 << 20;  // of one request
  // Bytes of a body that have come: what they are refused with where all bodies together may hold no more. give_body:
  // they are held no longer. Null: no such limit.
  std::function<std::optional<Refusal>(int64_t bytes)> take_body = nullptr;
  std::function<void(int64_t bytes)> give_body = nullptr;
  int max_connections = 4096;
  double header_seconds = 30, idle_seconds = 75, body_seconds = 30, write_seconds = 30;
  int send_buffer = 0;  // of the sockets, bytes; 0: the system's. Tests of slow readers make it small
};

class Listener {
 public:
  // UNAVAILABLE where the address cannot be had.
  static absl::StatusOr<std::unique_ptr<Listener>> Listen(ListenerOptions options);
  ~Listener();  // Stop

  int port() const;
  // Reads the certificates' files again and checks them; the function that it gives takes them for connections that
  // come from then on, and cannot fail. Any thread, before Stop.
  absl::StatusOr<std::function<void()>> PrepareCertificates();
  // Takes no more connections, gives answers that are being written two seconds, cuts the others off, and returns when
  // every exchange has ended.
  void Stop();

 private:
  Listener();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duo::http
