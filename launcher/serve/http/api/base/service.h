// Service: what the routes work with: the calls of the server behind them, once its model is loaded, and what was asked
// for by flags. Made before anything listens; outlives every exchange.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launcher/serve/calls/context.h"
#include "launcher/serve/http/api/base/errors.h"
#include "runtime/text/chat_template.h"

namespace duo::http {

// What the server has room for at most.
struct ServiceLimits {
  int64_t window = 0;      // tokens of prompt and answer together
  int64_t kv_tokens = 0;   // of the cache in all
  int64_t new_tokens = 0;  // of an answer
  int queue = 256;         // answers that wait or are being written
};

// For fields that a request leaves out, as the model's generation_config.json has them.
struct SamplingDefaults {
  double temperature = 1, top_p = 1, min_p = 0, repetition_penalty = 1;
  int32_t top_k = 0;
};

struct Service {
  std::string model;           // its name in answers
  double comment_seconds = 5;  // between comments of a stream that has nothing to say; 0: none
  std::string commit;          // that the program was built from; empty: not known
  bool admin = false;          // the page has buttons for the server's life
  bool saves = false;          // sessions outlive the server

  // Set before `calls`.
  ServiceLimits limits;
  SamplingDefaults sampling;
  int64_t created = 0;  // when the model was loaded
  absl::StatusOr<ChatTemplate> chat = absl::UnavailableError("the model is loading");
  nlohmann::ordered_json tokenizer_info;
  std::vector<int32_t> end_of_turn;          // ends an answer of a chat
  std::atomic<CallContext*> calls{nullptr};  // null while the model loads

  int answers = 0;  // that wait or are being written; I/O thread

  // May the caller come in? Of every route but health.
  std::optional<Refusal> Authenticate(const Request& request) const;
  // What a status of the calls is to the client.
  ErrorAnswer Error(const absl::Status& status) const;
  // Runs `job` on a worker's thread, where bodies are parsed, rendered and made tokens, so that the I/O thread does not
  // stop for them. bytes: of the body. False where too many wait.
  bool Work(size_t bytes, std::function<void()> job) const {
    return calls.load()->workers->Post(bytes, std::move(job));
  }
  // Fields that nobody knows are logged once each. Any thread.
  void LogUnknown(const std::vector<std::string>& names);

 private:
  std::mutex mutex_;
  std::set<std::string> logged_;
};

// The caller, as the calls want it.
Caller CallerOf(const Request& request);

// Why no new work can be taken now; nothing: it can.
std::optional<Refusal> NotReady(const Service& service);
ErrorAnswer NotReadyError(const Refusal& why);

}  // namespace duo::http
