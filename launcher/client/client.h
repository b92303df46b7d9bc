// What `duo client` does: one verb, one or more calls, output for people or as JSON. gRPC stays behind this header.
// One thread calls it. Errors are the server's, or UNAVAILABLE when it cannot be reached.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launcher/terminal/sampling_flags.h"

namespace duo {

struct ClientOptions {
  std::string server = "127.0.0.1:50051";
  std::string tls_ca, tls_cert, tls_key;  // PEM files; a CA means TLS, the other two mTLS
  std::string token;                      // bearer token; empty: none
  double timeout = 0;                     // seconds a call may take; 0: no limit
  bool json = false;
};

enum class Verb {
  kCreate,
  kAppend,
  kAsk,
  kFork,
  kRewind,
  kSave,
  kRestore,
  kList,
  kGet,
  kPin,
  kClose,
  kTokenize,
  kPlan,
  kStats,
  kDrain,
};

struct VerbOptions {
  Verb verb = Verb::kList;
  std::string session, new_id, append_id;
  std::string text, file;  // file "-": stdin
  std::vector<std::string> stops;
  int64_t max_tokens = 0, reserved_tokens = 0, tokens = 0, max_new_tokens = 128;
  double temperature = 0, top_p = 1, grace = 0;
  uint64_t seed = 0;
  SamplingFlags sampling;
  bool durable = false, keep = false, special = false, delete_saved = false, reread = false, wait = false;
  bool seam = false, chat = false, off = false;
  std::string system;  // of create: a conversation with this system turn
  int retries = 5;
  int sources = 0;  // of an answer; 0: none
};

// Results go to stdout, progress and statistics to stderr.
absl::Status RunClient(const ClientOptions& options, const VerbOptions& verb);

}  // namespace duo
