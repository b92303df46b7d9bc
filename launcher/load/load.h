// A load on a running service: many clients at once, each with calls as its mix has it, and what came of them. gRPC
// stays behind this header. RunLoad may be called from one thread; it makes one for each client. Ctrl-C ends a load
// early, and what came until then is its result; the second ends the program.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/client/client.h"
#include "launcher/load/lengths.h"
#include "launcher/load/load_report.h"

namespace duo {

// chats: every client asks on a session of its own. document: all ask on one. ingest: chats beside documents that are
// read. mixed: chats, documents, forks, answers that are cancelled or whose connection ends, and calls that are to be
// refused.
enum class Mix { kChats, kDocument, kIngest, kMixed };

struct LoadOptions {
  ClientOptions client;
  Mix mix = Mix::kChats;
  int clients = 8;
  double rate = 0;                              // calls that begin in a second, of all; 0: one after the other
  double seconds = 20;                          // of ingest: as long as the documents take
  int64_t requests = 0;                         // above 0: instead, until each client has asked so many times
  Lengths context, question, answer, document;  // tokens
  int readers = 1;                              // documents that are read at once
  int documents = 1;                            // that each reader reads in an ingest
  bool read_alone = false;                      // an ingest reads one before any client asks
  uint64_t seed = 1;
  double goal_first_token = 1, goal_gap = 0.05;  // seconds
};

// INVALID_ARGUMENT for options that contradict each other, the server's error where it cannot be prepared. Calls that
// fail while it runs are counted, not returned.
absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options);

}  // namespace duo
