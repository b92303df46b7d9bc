// Server: the service's life, without a transport: the engine's thread, the sessions, the store, metrics, and the
// graceful stop that is called drain. Rank 0 only; the other ranks call Engine::Follow.
//
// Transports (launcher/serve/grpc) listen between Make and Run, hand calls to context(), and end before the server
// does. The server takes over the engine: no other thread may touch it from Run until the server is destroyed. Any
// thread may call Drain and Wait.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/serve/calls/context.h"
#include "launcher/serve/ops/auth.h"
#include "launcher/terminal/log.h"
#include "runtime/engine/engine.h"
#include "runtime/text/tokenizer.h"

namespace duo {

struct ServerOptions {
  ListenOptions grpc;
  std::string metrics;        // HOST:PORT; empty: none
  std::string otlp_endpoint;  // http://HOST:PORT[/PATH] that takes spans; empty: none
  std::string model_dir, device;
  std::string commit;      // that the program was built from
  std::string save_dir;    // empty: no saving
  bool take_over = false;  // servers of other hosts that hold sessions there are gone
  bool insecure = false;   // a public address without TLS or tokens is meant
  std::string token_file;  // empty: everyone may call
  int64_t max_session_tokens = 0;
  int64_t max_append_bytes = int64_t{256} << 20;
  int64_t max_upload_bytes = int64_t{1} << 30;  // of all that is arriving
  std::shared_ptr<UploadBudget> uploads;        // of them, shared with who else takes them; null: one of its own
  double upload_seconds = 300;                  // that an upload may be silent
  int64_t max_new_tokens = 65536;
  int max_queue = 256;
  CallerLimits caller;
  bool prefix_cache = true, share_prefixes = false;  // of prompts without a session; as SessionsOptions has them
  int64_t prefix_disk = 0;                           // bytes of saved prefixes
  bool measured = true;                              // false: how fast disks and steps are stays a guess
  bool sources = false;                              // answers may ask where they looked: the engine must read it
  int64_t checkpoint_tokens = 32768;
  double idle_seconds = 0;
  const FileSystem* files = nullptr;  // under the save directory; null: the machine's own
  double grace_seconds = 30;          // that running questions are given when the server drains
};

class Server {
 public:
  // What can be checked without a model: files, directories, addresses.
  static absl::Status Check(const ServerOptions& options);
  // Checks the options and opens what they name. Calls that come before Run wait for it. engine and log outlive the
  // server.
  static absl::StatusOr<std::unique_ptr<Server>> Make(const ServerOptions& options, Engine& engine,
                                                      const Tokenizer& tokenizer, std::vector<int32_t> end_tokens,
                                                      const Log& log);
  ~Server();  // drains, if it runs and that has not been done

  CallContext& context();
  // Takes up what a former run left in the store, and begins to answer calls. Once.
  void Run();
  // `tell` is called on the engine's thread when a drain begins. Before Run.
  void WhenDraining(std::function<void()> tell);

  // `tell` is called on the engine's thread when a drain could not save everything and the server serves on. Before
  // Run.
  void WhenServingOn(std::function<void()> tell);
  // `prepare` reads again what a transport has from files, and gives what takes it. Before Run.
  using Prepare = std::function<absl::StatusOr<std::function<void()>>()>;
  void WhenReloading(Prepare prepare);

  // Begins a graceful stop; also several times. Sessions that cannot be saved stop it, unless it is `forced`.
  void Drain(bool forced = false);
  // Reads tokens, certificates and whatever else was given a Prepare again: all of them, or, with a line in the log,
  // none.
  void Reload();
  // Returns when a drain, however begun, is complete: OK, or with what a forced one could not save. Answers may still
  // be on their way.
  absl::Status Wait();

 private:
  Server();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duo
