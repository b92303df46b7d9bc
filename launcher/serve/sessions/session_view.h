// Sessions as the service's calls see them: views, progress, results. Plain values; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "launcher/serve/sessions/upload_budget.h"
#include "runtime/provenance/sent_text.h"
#include "runtime/scheduler/request.h"
#include "runtime/text/session_text.h"

namespace duo {

// A call as the engine's thread sees it. The transport's side cancels it by Sessions::Cancel.
struct Call {
  bool cancelled = false;
  std::function<void()> cancel;          // set while there is something to stop
  std::string request = {}, trace = {};  // its client's names for it, for the log
};
using CallPtr = std::shared_ptr<Call>;

enum class Residence { kOpen, kMovedOut, kSaved };

struct AppendView {
  std::string id;
  int64_t received_bytes = 0, tokens = 0, total_tokens = 0;
  bool received_all = false, done = false;
};

// What the engine says of a session, which it knows by a number, with the name that callers know.
absl::Status OfSession(const std::string& id, const absl::Status& status);

// Whose sessions are that were made before there were names, or without one.
inline constexpr char kDefaultOwner[] = "default";

// A session that is to be made.
struct NewSession {
  std::string id = {};          // empty: the server makes one
  int64_t max_tokens = 0;       // the limit; 0: the server's
  int64_t reserved_tokens = 0;  // room that it is promised at once
  bool durable = false;
  std::string owner = kDefaultOwner;
  bool chat = false;        // a conversation, in the words of the model's template
  std::string system = {};  // its system turn; empty: the template's own
};

struct SessionView {
  std::string id, owner;
  int64_t tokens = 0, max_tokens = 0, kv_bytes = 0, durable_tokens = 0;
  int64_t reserved_tokens = 0;
  Residence residence = Residence::kOpen;
  bool durable = false, pinned = false;
  int pending = 0;
  double idle_seconds = 0;
  std::optional<AppendView> append;
  std::string unusable, held_by;           // of a saved one: as in duo.proto
  int64_t tail_bytes = 0;                  // of text behind the tokens
  SparseReport sparse;                     // how its texts were read
  bool chat = false, reads_whole = false;  // as in duo.proto
  bool prefix = false;                     // no session: what a prompt left
  int64_t hits = 0;                        // of a prefix: prompts that went on there
};

// The text of an append while it arrives. Written by the transport's threads. It counts against the budget of all.
struct AppendText {
  explicit AppendText(std::shared_ptr<UploadBudget> of) : budget(std::move(of)) {}
  ~AppendText() { budget->Give(received()); }
  AppendText(const AppendText&) = delete;
  AppendText& operator=(const AppendText&) = delete;

  const std::shared_ptr<UploadBudget> budget;
  std::mutex mutex;             // never held for longer than a piece takes
  std::string text;             // guarded by mutex, as is what follows
  std::vector<int32_t> tokens;  // instead of text
  bool whole = false;           // all of it is here: nobody writes it any more
  std::chrono::steady_clock::time_point touched = std::chrono::steady_clock::now();
  // Ends the call that writes it; set while there is one.
  std::function<void(const absl::Status&)> expire;
  int64_t received() const { return static_cast<int64_t>(text.size() + 4 * tokens.size()); }
};

// An append whose text is all there.
struct AppendInput {
  std::string session_id = {}, append_id = {};
  std::vector<int32_t> tokens = {};  // of the whole text; ignored where Sessions has them
  int64_t received_bytes = 0;
  bool begun = false;  // they begin with what the tokenizer puts before a text
  Whose whose = {};
  // Instead of tokens, until its turn has come.
  std::string text = {};
  bool special = false, seam = false, chat = false;  // as in duo.proto
  // What is behind its tokens then, and the tokens that it would have.
  SessionText rest = {};
  int64_t rest_tokens = 0;
  // Where answers may ask where they looked: the text as it was sent, and what a chat template put before it.
  std::string sent = {}, frame = {};
};

// A session's text and tokens as a question found them.
struct SentSession {
  SentText sent;
  std::vector<int32_t> tokens;  // those of the question's tail included
};

// A question: tokens, or a text.
struct QuestionInput {
  std::vector<int32_t> tokens = {};
  std::string text = {};
  bool special = false, seam = false;  // as in duo.proto
  bool turn = false;                   // a conversation's, which alone takes it: as it is, as in a chat sent whole
  bool fits = false;                   // its answer is no longer than there is room for
};

struct AppendProgress {
  int64_t tokens = 0, total = 0;
  double seconds_left = 0;
  bool waiting = false;
};
struct AppendDone {
  absl::Status status;
  SessionView session;
  double queue_seconds = 0, read_seconds = 0, checkpoint_seconds = 0;
  int64_t checkpoints = 0, tokens = 0, received_bytes = 0;
};
struct AppendEvents {
  std::function<void(const AppendProgress&)> on_progress;
  std::function<void(const AppendDone&)> on_done;  // once
};

// What of a prompt without a session did not have to be read.
struct CachedText {
  int64_t tokens = 0;
  int64_t refed_tokens = 0;  // of them, fed again to rebuild rings
  // "open": an open session or what a prompt left; "read": a read under way; "moved_out", "saved": brought back from
  // disk for it; empty: nothing
  std::string source;
  std::string session;  // that it was; empty: none
  int64_t restored_bytes = 0;
};

struct AskEvents {  // the engine's (RequestEvents)
  std::function<bool(int32_t token)> on_token;
  std::function<absl::Status(std::vector<uint32_t>* mask)> allow = nullptr;
  std::function<bool()> pause = nullptr;
  std::function<void(const TokenScore&)> on_score = nullptr, on_prompt_score = nullptr;
  std::function<void(const RowMass&)> on_mass = nullptr;
  // With params.mass, before anything else of it: what its sources are named by.
  std::function<void(std::shared_ptr<const SentSession>)> on_sent = nullptr;
  std::function<std::string()> said = nullptr;  // of one that is kept: all of its answer's text, once it has ended
  std::function<void(const CachedText&)> on_start = nullptr;           // of one without a session: it has its place
  std::function<void(const RequestResult&, int64_t history)> on_done;  // once

  // What the engine is given, but for on_start and on_done.
  RequestEvents ForEngine() const {
    RequestEvents events;
    events.on_token = on_token;
    events.allow = allow;
    events.pause = pause;
    events.on_score = on_score;
    events.on_prompt_score = on_prompt_score;
    events.on_mass = on_mass;
    return events;
  }
};

// How a save or a restore ended.
struct SaveDone {
  absl::Status status;
  SessionView session;
  int64_t bytes_moved = 0, bytes_total = 0;  // read or written by this job; on disk
  double seconds = 0;
};

struct SessionsStats {
  int open = 0, moved_out = 0;
  int calls = 0;  // waiting or running
  int64_t checkpoints = 0, saved_bytes = 0, restored_bytes = 0;
  int64_t moved_out_hit_tokens = 0, saved_hit_tokens = 0;  // of prompts, that were brought back for them
  int prefixes_saved = 0;
  double longest_wait = 0;
};

}  // namespace duo
