// HttpFront: the HTTP transport: an address that is listened on, with OpenAI's routes and duo's own. Beside gRPC's, an
// adapter of the same calls (launcher/serve/calls).
//
// Listens before there is a server, so that a taken port is found before a model is loaded; what comes then is told
// that the model is loading. Made, opened and stopped on one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/serve/server.h"

namespace duo {

struct HttpOptions {
  std::string address = "127.0.0.1:8000";  // HOST:PORT; port 0: any
  TlsFiles tls;
  std::vector<std::string> origins;       // of pages that may call; "*": all
  int64_t max_body = 64 << 20;            // bytes of a request
  std::shared_ptr<UploadBudget> uploads;  // what bodies may hold, with other uploads; null: a budget of its own
  double comment_seconds = 5;             // between comments of a stream that has nothing to say yet; 0: none
  double reader_seconds = 30;             // a client that takes nothing of its answer for so long is dropped
  std::string model_name;                 // in answers; empty: the folder's
  bool generation_config = true;          // the model's generation_config.json says what requests leave out
  std::string commit;                     // that the program was built from; empty: not known
  const Log* access_log = nullptr;        // a line for every request, but for probes; null: none. Outlives the front
  bool admin = false;                     // the page has buttons for the server's life
  bool saves = false;                     // sessions outlive the server, which the page says before it ends it
};

class HttpFront {
 public:
  // UNAVAILABLE where the address cannot be had.
  static absl::StatusOr<std::unique_ptr<HttpFront>> Listen(const HttpOptions& options);
  ~HttpFront();

  int port() const;
  // From now on calls go to `server`'s context, and wait there until it runs.
  absl::Status Open(Server& server);
  // Answers that are on their way get a moment; what is left is cut off. Before the server is destroyed.
  void Stop();

 private:
  HttpFront();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duo
