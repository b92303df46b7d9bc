// CallContext: what the calls of the service work with, whatever transport they came by: sessions, engine, tokenizer,
// limits, counters. Plain structs go in, plain structs and absl::Status come out; a transport (launcher/serve/grpc)
// only converts them.
//
// The server makes one context before anything listens; it outlives every call. `sessions` and `engine` belong to the
// engine's thread, all else may be used on any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "launcher/serve/calls/activity.h"
#include "launcher/serve/calls/guide_compiler.h"
#include "launcher/serve/calls/refusal_log.h"
#include "launcher/serve/calls/sender.h"
#include "launcher/serve/calls/workers.h"
#include "launcher/serve/ops/auth.h"
#include "launcher/serve/ops/metrics.h"
#include "launcher/serve/sessions/engine_thread.h"
#include "launcher/serve/sessions/sessions.h"
#include "launcher/serve/trace/span_sender.h"
#include "launcher/terminal/log.h"
#include "runtime/engine/engine.h"
#include "runtime/text/tokenizer.h"

namespace duo {

struct CallLimits {
  int64_t append_bytes = int64_t{256} << 20;
  int64_t new_tokens = 65536;
  int64_t message_bytes = 4 << 20;  // of a message of a transport that takes it whole
};

// Who calls, as the transport has it from the call's header.
struct Caller {
  std::string authorization;    // "Bearer TOKEN"; empty: none was sent
  std::string request_id = {};  // the client's name for the call, for the log
  std::string trace = {};       // W3C's traceparent, likewise
};

struct DrainResult {
  absl::Status status;               // not OK: some could not be saved, and the server goes on serving
  int saved = 0, cancelled = 0;      // sessions that are on disk; calls
  std::vector<SessionView> dropped;  // without a save directory: the sessions that are gone
  double seconds = 0;
};

// The server's state as transports see it, at any moment, without asking the engine's thread.
struct ServerState {
  std::atomic<bool> draining{false};
  std::atomic<double> wait_seconds{0};  // predicted: until one of the requests that pend is done
  std::atomic<int64_t> beat{0};         // nanoseconds of the steady clock: when the engine's thread last came round

  void Beat() { beat = std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }
  double SecondsSinceBeat() const {
    const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
    return beat == 0 ? 0 : 1e-9 * static_cast<double>(now.count() - beat);
  }
};

struct CallContext {
  EngineThread* thread = nullptr;
  Sessions* sessions = nullptr;
  Engine* engine = nullptr;
  const Tokenizer* tokenizer = nullptr;
  const TokenFile* bearer_tokens = nullptr;
  Metrics* metrics = nullptr;
  const Log* log = nullptr;
  SpanSender* spans = nullptr;  // null: nobody wants them
  GuideCompiler* guides = nullptr;
  CallLimits limits;
  // Where answers may ask where they looked.
  struct Sources {
    bool known = false;
    int64_t sink = 0;  // tokens at a sequence's beginning that are nobody's source
  } sources;
  std::vector<int32_t> end_tokens, begin_tokens;
  std::vector<int32_t> end_of_turn;  // what ends an answer of a conversation too
  int64_t vocab = 0;
  std::string model, device;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  std::atomic<int64_t> calls{0}, refused{0};
  ServerState state;
  Workers* workers = nullptr;
  int64_t token_bytes = 0;  // of text that one token stands for at most; 0: not known
  RefusalLog refusals;
  Activity activity;
  // Begins a graceful stop; `done` comes on the engine's thread when everything is saved.
  std::function<void(double grace_seconds, std::function<void(const DrainResult&)> done)> drain;
  Sender* sender = nullptr;  // null: who has something to send does it

  // The check of every call, before anything else is looked at: who calls, and that they may. A server without tokens
  // is everybody's: all are its admin.
  absl::StatusOr<Identity> Authenticate(const Caller& caller, Right right) const;
  // Before anything is done with a session, on the engine's thread: NOT_FOUND where it is another owner's.
  absl::Status CheckOwner(const Identity& who, const std::string& session_id) const;
  // For the engine's shares: without tokens all are one caller.
  Whose WhoseOf(const Identity& who, int32_t priority) const;
  // INVALID_ARGUMENT outside of what a call may ask for.
  static absl::Status CheckPriority(int32_t priority);
  // Has this done beside the engine's thread, which calls it.
  void Send(std::function<void()> send) const;
  // Token ids from a client.
  absl::Status CheckTokens(const std::vector<int32_t>& tokens) const;
  // The tokens of a client's text, on the calling thread, which is a worker's. special: special tokens' text becomes
  // those tokens.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool special) const;
  // Counts and logs a call's end. owner: whose it was, where that is known; by: its client's names for it.
  void Count(const char* method, const absl::Status& status, const std::string& owner = "", const Caller& by = {});
};

// What a call is refused with that the engine's thread has no place for.
absl::Status QueueFull();

}  // namespace duo
