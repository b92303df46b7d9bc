// Sessions: the service's named sessions, without any RPC: who is open, moved out to disk or saved, which append is
// where, and in which order calls take effect. It turns calls into engine requests and store jobs.
//
// A call on a session that is moved out brings it back first; a call on a session that is being read into, saved or
// brought back waits its turn. Appends of durable sessions are fed in pieces with a checkpoint after each. Appends with
// an id can be stopped and taken up again; those without are undone when they fail.
//
// Everything here runs on the engine's thread, callbacks included; only AppendText is shared with RPC threads. Borrows
// the engine, the store (null: no save directory) and the log. Errors as in duo.proto.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/terminal/log.h"
#include "runtime/engine/engine.h"
#include "runtime/saved/session_store.h"

namespace duo {

struct SessionsOptions {
  int64_t max_session_tokens = 0;
  int max_waiting = 256;              // calls that wait or run at once
  int64_t checkpoint_tokens = 32768;  // of durable appends
  double idle_seconds = 0;            // a session that nobody used for so long is moved out; 0: never
  std::vector<int32_t> begin_tokens;  // what the tokenizer puts before a text
};

// A call as the engine's thread sees it. The RPC side cancels it by Sessions::Cancel.
struct Call {
  bool cancelled = false;
  std::function<void()> cancel;  // set while there is something to stop
};
using CallPtr = std::shared_ptr<Call>;

// The text of an append while it arrives. Written by RPC threads.
struct AppendText {
  std::mutex mutex;
  std::string text;             // guarded by mutex, as is what follows
  std::vector<int32_t> tokens;  // instead of text
  bool sealed = false;          // all is there; later pieces are only compared
  int64_t received() const { return static_cast<int64_t>(text.size() + 4 * tokens.size()); }
};

enum class Residence { kOpen, kMovedOut, kSaved };

struct AppendView {
  std::string id;
  int64_t received_bytes = 0, tokens = 0, total_tokens = 0;
  bool received_all = false, done = false;
};

struct SessionView {
  std::string id;
  int64_t tokens = 0, max_tokens = 0, kv_bytes = 0, durable_tokens = 0;
  Residence residence = Residence::kOpen;
  bool durable = false;
  int pending = 0;
  double idle_seconds = 0;
  std::optional<AppendView> append;
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

struct AskEvents {
  std::function<bool(int32_t token)> on_token;
  std::function<void(const RequestResult&, int64_t history)> on_done;  // once
};

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
  double longest_wait = 0;
};

class Sessions {
 public:
  Sessions(const SessionsOptions& options, Engine& engine, SessionStore* store, const Log& log);
  ~Sessions();

  // Takes up what a former run left in the store: open sessions, and appends that were not finished.
  void Recover();

  using Viewed = std::function<void(const absl::StatusOr<SessionView>&)>;
  absl::StatusOr<SessionView> Create(const std::string& id, int64_t max_tokens, bool durable);
  void Fork(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens, Viewed done);
  void Rewind(const CallPtr& call, const std::string& id, int64_t tokens, Viewed done);
  absl::StatusOr<SessionView> Get(const std::string& id) const;
  std::vector<SessionView> List() const;
  absl::Status Close(const std::string& id, bool delete_saved);

  void Ask(const CallPtr& call, const std::string& id, std::vector<int32_t> tokens, const GenerateParams& params,
           AskEvents events);

  // The buffer that the pieces go to: a new one, or that of a broken append with the same id; null when all of its text
  // is here already (what comes is then ignored).
  struct Opened {
    std::shared_ptr<AppendText> text;
    SessionView session;
  };
  absl::StatusOr<Opened> OpenAppend(const std::string& id, const std::string& append_id);
  // All text is there: reads it, or goes on reading. tokens: of the whole text; ignored where OpenAppend gave no
  // buffer.
  void FeedAppend(const CallPtr& call, const std::string& id, const std::string& append_id, std::vector<int32_t> tokens,
                  int64_t received_bytes, AppendEvents events);

  void Save(const CallPtr& call, const std::string& id, std::function<void(const SaveDone&)> done);
  void Restore(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens,
               std::function<void(const SaveDone&)> done);

  void Cancel(const CallPtr& call);

  // A part of a job, due continuations, idle sessions. True: there is more to do at once.
  bool Tick();

  // Refuses new work from now on; appends stop at the next step.
  void StartDraining();
  void CancelAll();    // running questions too
  bool Quiet() const;  // no call runs, no job either
  int SaveAll();       // those that are open; with a store
  bool draining() const { return draining_; }

  SessionsStats stats() const;
  const SessionsOptions& options() const { return options_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Append {
    std::string id;
    std::vector<int32_t> tokens;  // until done
    int64_t received_bytes = 0;
    int64_t start = 0;  // of the session before it
    int64_t total = 0;  // tokens
    bool done = false;
    bool running = false;  // the engine or a checkpoint works on it
    RequestId request = 0;
    CallPtr call;
    AppendEvents events;
    AppendDone result;
    Clock::time_point begun;
    int64_t begun_at = 0;  // tokens read when `begun` was taken
  };
  struct Held {
    std::string id;
    SessionId session = 0;  // 0: moved out
    int64_t max_tokens = 0;
    int64_t moved_tokens = 0;  // of a session that is moved out
    bool durable = false;
    int64_t durable_tokens = 0;
    std::optional<Append> append;  // the last one whose text is all there
    std::string upload_id;         // an append whose text is still arriving, or broke off
    std::shared_ptr<AppendText> upload;
    int saving = 0, restoring = 0;     // jobs of it in jobs_
    int keeping = 0;                   // questions that are kept
    int calls = 0;                     // running questions
    std::vector<RequestId> questions;  // the same, for the engine
    struct Waiting {
      CallPtr call;
      bool reads = false;  // leaves the session as it is: may run while it is saved
      std::function<void(const absl::Status&)> run;
    };
    std::deque<Waiting> waiting;
    Clock::time_point used;
  };
  struct Job {
    std::string id;
    std::unique_ptr<SaveJob> save;
    std::unique_ptr<RestoreJob> restore;
    Clock::time_point begun;
    std::function<void(const absl::Status&, Job&)> done;
  };

  absl::StatusOr<Held*> Find(const std::string& id);
  absl::StatusOr<std::string> NewId(const std::string& wanted);
  absl::Status Admit(const std::string& id);
  SessionView View(const Held& held) const;
  int64_t Tokens(const Held& held) const;
  // Runs `run` when the session is open and nothing is changing it; with an error when that cannot be.
  void WhenFree(Held& held, const CallPtr& call, bool reads, std::function<void(const absl::Status&)> run);
  bool Free(const Held& held, bool reads) const;
  void RunWaiting(const std::string& id);
  void Later(std::function<void()> closure) { later_.push_back(std::move(closure)); }

  void FeedNext(const std::string& id);
  void PieceDone(const std::string& id, RequestId request, const RequestResult& result);
  void EndAppend(const std::string& id, absl::Status status);
  AppendView ViewOf(const Held& held, const Append& append) const;
  void ReportProgress(const Held& held, int64_t in_piece);

  SessionManifest MetaOf(const Held& held, bool open) const;
  void StartSaveJob(Held& held, std::function<void(const absl::Status&, Job&)> done);
  void StartRestoreJob(Held& held);
  void RunJob();
  void MoveOutIdle();
  SaveDone DoneOf(const std::string& id, const absl::Status& status, const Job& job) const;
  void Restored(const std::string& id, const absl::Status& status, Job& job);

  SessionsOptions options_;
  Engine& engine_;
  SessionStore* store_;
  const Log& log_;
  std::map<std::string, Held> held_;
  std::deque<Job> jobs_;
  std::deque<std::function<void()>> later_;
  Clock::time_point last_idle_look_;
  bool draining_ = false;
  SessionsStats stats_;
  uint64_t next_id_ = 0;
};

}  // namespace duo
