// Sessions: the service's named sessions, without any transport: which there are, where they are (state.h), and in
// which order calls on them take effect. Calls become requests to the engine and jobs of the store.
//
// A call on a session that is moved out brings the session back first; a call on a session that is being read into,
// saved or brought back waits its turn. Appends of durable sessions are read in pieces with a checkpoint after each.
// Appends with an id can be stopped and taken up again; those without are undone when they fail.
//
// Everything here runs on the engine's thread, callbacks included, and waits for no disk where the store is threaded:
// what is at the disk ends in a later Tick. Only AppendText is shared with the transport's threads. Borrows the engine,
// the store (null: no save directory) and the log. Errors as in duo.proto.
//
// The parts: sessions.cc (which there are), caller_limits.cc, turns.cc (whose turn it is), tails.cc (texts become
// tokens), questions.cc, uploads.cc and appends.cc (text), alone.cc and prefix_saves.cc (prompts without a session,
// what they share and leave), jobs.cc (saves and restores), offload.cc (idle sessions, the server's start and end).
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/serve/prefix/prefix_index.h"
#include "launcher/serve/sessions/named_session.h"
#include "launcher/serve/sessions/prompt.h"
#include "launcher/serve/sessions/session_view.h"
#include "launcher/serve/sessions/state.h"
#include "launcher/terminal/log.h"
#include "runtime/engine/engine.h"
#include "runtime/saved/session_store.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace duo {

// Of one caller at once; 0: no limit.
struct CallerLimits {
  int sessions = 0;
  int calls = 0;       // that wait or run
  int64_t tokens = 0;  // of sessions in the cache
};

struct SessionsOptions {
  int64_t max_session_tokens = 0;
  int max_waiting = 256;  // calls that wait or run at once
  CallerLimits caller;
  int64_t checkpoint_tokens = 32768;                   // of durable appends
  int64_t max_upload_bytes = int64_t{1} << 30;         // of all that is arriving
  std::shared_ptr<UploadBudget> uploads = nullptr;     // instead, where others take from it, too
  double upload_seconds = 300;                         // an upload that nothing came of for so long is given up
  double idle_seconds = 0;                             // a session that nobody used for so long is moved out; 0: never
  bool prefixes = false;                               // prompts without a session go on where others agree with them
  bool share_prefixes = false;                         // other callers' too
  int64_t prefix_disk = 0;                             // bytes that what prompts left may take in the store; 0: none
  bool sources = false;                                // answers may ask where they looked: what is sent is kept
  std::vector<int32_t> begin_tokens;                   // what the tokenizer puts before a text
  const Tokenizer* tokenizer = nullptr;                // of texts
  const absl::StatusOr<ChatTemplate>* chat = nullptr;  // of conversations
  // Runs `work` beside the engine's thread and then `back` on it; false: too much waits for that. Empty: at once.
  std::function<bool(size_t bytes, std::function<void()> work, std::function<void()> back)> beside;
  double job_seconds = 0.1;  // that saves and restores get between two steps, at most
  StateWatch watch;          // for tests
  double disk_rate = 0;      // bytes a second that the disk is taken to give; 0: as it is found to
};

class Sessions {
 public:
  static constexpr double kDiskRate = 5e8;  // bytes a second, a guess until something was restored

  Sessions(const SessionsOptions& options, Engine& engine, SessionStore* store, const Log& log);
  ~Sessions();

  // Takes up what a former run left in the store: open sessions, and appends that were not finished.
  void Recover();

  using Viewed = std::function<void(const absl::StatusOr<SessionView>&)>;
  using Saved = std::function<void(const SaveDone&)>;
  absl::StatusOr<SessionView> Create(const NewSession& wanted);
  void Fork(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens,
            const Viewed& done, int64_t reserved_tokens = 0);
  void Rewind(const CallPtr& call, const std::string& id, int64_t tokens, const Viewed& done);
  absl::StatusOr<SessionView> Get(const std::string& id) const;
  // Whether it may be moved out; one that is comes back first.
  void Pin(const CallPtr& call, const std::string& id, bool pinned, const Viewed& done);
  // Of an open or saved session; nothing where there is none.
  std::optional<std::string> OwnerOf(const std::string& id) const;
  static absl::Status NoSession(const std::string& id);
  std::vector<SessionView> List() const;
  std::vector<SessionView> ListPrefixes() const;  // what prompts left, in the cache and on disk
  using Ended = std::function<void(const absl::Status&)>;
  // Its calls end at once; `done` follows when it is closed on disk too. Until then nobody else gets its name.
  void Close(const std::string& id, bool delete_saved, Ended done = {});

  void Ask(const CallPtr& call, const std::string& id, std::vector<int32_t> tokens, const GenerateParams& params,
           AskEvents events) {
    AskText(call, id, {.tokens = std::move(tokens)}, params, std::move(events));
  }
  void AskText(const CallPtr& call, const std::string& id, QuestionInput question, const GenerateParams& params,
               AskEvents events);
  bool IsChat(const std::string& id) const;

  // Prompts without a session will come: takes the place that they need. Before the engine's thread runs.
  absl::Status ExpectPrompts();
  // The same of a whole prompt that belongs to no session; its tokens begin as they are to begin. As many answers as
  // there are events, of one reading of the prompt; the i-th has params.seed + i. Where prefixes are on and params say
  // so (PrefixOf), it is read only from where it parts from what is in the cache.
  void AskAlone(const CallPtr& call, std::vector<int32_t> tokens, const GenerateParams& params,
                const std::vector<AskEvents>& answers);

  // Whose texts a prompt of this caller may meet; `salt`: of these, only such of the same salt.
  PrefixUse PrefixOf(const std::string& owner, const std::string& salt) const;

  // The buffer that the pieces go to: a new one, or that of a broken append with the same id; null when all of its text
  // is here already (what comes is then ignored).
  struct Opened {
    std::shared_ptr<AppendText> text;
    SessionView session;
  };
  absl::StatusOr<Opened> OpenAppend(const std::string& id, const std::string& append_id);
  // The append is refused: what has come of its text is of no use.
  void DropUpload(const std::string& id, const std::string& append_id);
  // All text is there: reads it, or goes on reading. input.tokens are ignored where OpenAppend gave no buffer.
  void ReadAppend(const CallPtr& call, AppendInput input, AppendEvents events);

  void Save(const CallPtr& call, const std::string& id, const Saved& done);
  void Restore(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens,
               const Saved& done);

  // The same from the saved tokens alone, read as an append is: what is saved of it stays until the next save.
  void Reread(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens,
              const Saved& done);

  void Cancel(const CallPtr& call);

  // A part of a job, due continuations, idle sessions. True: there is more to do at once; what waits for a disk is not,
  // and tells (Engine::TellIo, SessionStore::Tell) when it goes on.
  bool Tick();
  // Begins to move out what nobody has used for so long; Tick does it with options.idle_seconds.
  void MoveOutIdle(double idle_seconds);

  // Refuses new work from now on; appends stop at the next step.
  void StartDraining();
  void StopDraining();  // as before again
  int CancelAll();      // running questions too; how many calls that were
  bool Quiet() const;   // no call runs, no job either, and nothing is at the disk
  // Begins to save those that are open; with a store. What came of it is known when all is Quiet again.
  void SaveAll();
  struct SavedAll {
    int saved = 0;
    std::vector<std::pair<std::string, absl::Status>> failed;  // by name
  };
  const SavedAll& saved_all() const { return saved_all_; }
  bool draining() const { return draining_; }

  SessionsStats stats() const;
  // Of all texts that arrive. Any thread.
  const std::shared_ptr<UploadBudget>& uploads() const { return uploads_; }
  const SessionsOptions& options() const { return options_; }

 private:
  using Clock = std::chrono::steady_clock;
  using Run = std::function<void(const absl::Status&)>;
  using JobDone = std::function<void(const absl::Status&, StoreJob&)>;

  // Which there are.
  absl::StatusOr<NamedSession*> Find(const std::string& id);
  NamedSession* Lookup(const std::string& id);  // null: there is none any more
  NamedSession& Add(const std::string& id, const std::string& owner, Place first);
  absl::StatusOr<std::string> NewId(const std::string& wanted);
  int CallsOn(const NamedSession& session) const;
  // Limits (caller_limits.cc).
  absl::Status Admit(const std::string& caller, size_t more = 1) const;
  absl::Status CheckCallersSessions(const std::string& caller) const;
  absl::Status CheckCallersTokens(const std::string& caller, int64_t more) const;
  absl::Status CheckMaxTokens(int64_t max_tokens) const;
  absl::Status CheckReserved(int64_t reserved_tokens, int64_t max_tokens) const;
  SessionView View(const NamedSession& session) const;
  int64_t Tokens(const NamedSession& session) const;
  void EndCalls(NamedSession& session, const absl::Status& status);
  void CloseOnDisk(const std::string& id);
  void RewindNow(const std::string& id, int64_t tokens, const Viewed& done);
  void Release(const std::string& id);

  // Whose turn it is. Runs `run` when the session is open and nothing is changing it; with an error when that cannot
  // be.
  void WhenFree(NamedSession& session, const CallPtr& call, Turn turn, Run run);
  bool Free(const NamedSession& session, Turn turn) const;
  bool Idle(const NamedSession& session) const;
  void RunWaiting(const std::string& id);
  void Later(std::function<void()> closure) { later_.push_back(std::move(closure)); }

  // Tokens of texts, when their turn has come.
  using MakeTokens = std::function<absl::StatusOr<TextRead>()>;
  using TokensMade = std::function<void(absl::StatusOr<TextRead>)>;
  void Tokenise(NamedSession& session, const CallPtr& call, size_t bytes, MakeTokens make, const TokensMade& then);
  void MatchText(const CallPtr& call, const std::string& id, absl::StatusOr<TextRead> text, const TokensMade& then);
  absl::Status CheckChat(const std::string& system) const;
  void PrepareAppend(const CallPtr& call, AppendInput input, AppendEvents events);
  struct Asked {
    std::string id;
    GenerateParams params;
    Clock::time_point since;
    AskEvents events;
    bool fits = false;  // the answer is no longer than there is room for
  };
  void PrepareQuestion(const CallPtr& call, QuestionInput question, const Asked& asked);
  void AskNow(const CallPtr& call, TextRead read, const Asked& asked);
  struct KeptQuestion {
    int64_t history = 0, tokens = 0;  // of the session before it; its own
    bool ok = false;
    std::optional<std::string> answer;  // as it was told; nothing where it broke off
  };
  GenerateParams ParamsOf(const Asked& asked, const NamedSession& session, int64_t tokens) const;
  std::shared_ptr<const SentSession> SentOf(const NamedSession& session, const std::vector<int32_t>& question) const;
  void OnKept(NamedSession& session, const KeptQuestion& kept, const SessionText& rest);
  void UndoQuestion(NamedSession& session, int64_t history);
  struct Cut {
    int64_t tokens = 0;  // that are left
    Turn turn = Turn::kRewinds;
  };
  void CutLater(NamedSession& session, const CallPtr& call, Cut cut,
                const std::function<void(const absl::Status&)>& then);

  absl::StatusOr<SessionId> EmptySession();
  void StartPrompt(const PromptPtr& prompt);
  CachedText TextOf(const Prompt& prompt, const CachedPrefix& cached);
  // Prefixes on disk (prefix_saves.cc).
  void LookForSaved(bool now);
  bool RestoreFor(const PromptPtr& prompt);
  void OnPrefixRestored(const std::string& id, const absl::Status& status, StoreJob& job);
  int RestoringPrompts() const;
  int EndRestoring(const absl::Status& status);
  int64_t BytesToSave(int64_t tokens) const;
  double DiskRate() const { return options_.disk_rate > 0 ? options_.disk_rate : disk_rate_; }
  void SavePrefixes();
  void SavePrefix(const PrefixInfo& prefix);
  void OnPrefixSaved(const std::string& id, const absl::Status& status, StoreJob& job);
  void LetMatch(const NamedSession& session);

  // Appends.
  bool IsAppend(const NamedSession& session, const std::string& append_id) const;
  absl::Status StoppedAppend(const NamedSession& session) const;
  void TakeUpAppend(const CallPtr& call, NamedSession& session, AppendEvents events);
  void BeginAppend(const CallPtr& call, AppendInput input, AppendEvents events);
  void ReadNext(const std::string& id);
  void OnPieceRead(const std::string& id, RequestId request, const RequestResult& result);
  void Checkpoint(const std::string& id);
  void KeepSent(NamedSession& session);
  void EndAppend(const std::string& id, absl::Status status);
  void UndoAppend(NamedSession& session);
  void UndoNow(NamedSession& session);
  void UndoLater(NamedSession& session, Turn turn);
  void DropUpload(NamedSession& session, const std::string& append_id);
  std::shared_ptr<AppendText> NewText();
  void DropIdleUploads();
  void ForgetAppend(NamedSession& session);
  void RefuseAppend(const std::string& id, const AppendEvents& events, const absl::Status& status);
  bool AllRead(const NamedSession& session) const;
  AppendView ViewOfAppend(const NamedSession& session) const;
  void ReportProgress(const NamedSession& session, int64_t in_piece);

  // Jobs.
  void RestoreFound(const CallPtr& call, const std::string& id, const std::string& new_id, int64_t max_tokens,
                    const Saved& done);
  void RereadFound(const CallPtr& call, const std::string& id, const std::string& name, int64_t max_tokens,
                   SessionStore::Texts texts, const Saved& done);
  void OnReread(const std::string& id, const AppendDone& read, bool durable, const Saved& done);
  SessionView SavedView(const SavedSession& saved) const;
  SessionManifest MetaOf(const NamedSession& session, bool open) const;
  void StartSaveJob(NamedSession& session, JobDone done);
  void StartRestoreJob(NamedSession& session);
  bool RunJob();
  void DropJobs(const std::string& id, const absl::Status& status);
  SaveDone DoneOf(const std::string& id, const absl::Status& status, const StoreJob& job) const;
  void OnRestored(const std::string& id, const absl::Status& status, StoreJob& job);
  void AdoptAppend(NamedSession& session, const SavedAppend& saved);
  absl::StatusOr<std::string> CheckRestore(const std::string& id, const std::string& new_id, int64_t max_tokens);
  void OnIdleSaved(const std::string& id, const absl::Status& status, int64_t bytes);

  SessionsOptions options_;
  Engine& engine_;
  SessionStore* store_;
  const Log& log_;
  std::map<std::string, NamedSession> sessions_;
  SessionId empty_session_ = 0;             // of the engine; 0: not made yet
  std::map<RequestId, std::string> alone_;  // questions that run on forks of it, and whose they are
  PrefixIndex saved_texts_;
  Clock::time_point last_saved_look_, no_prefix_saves_until_;
  std::map<std::string, std::vector<PromptPtr>> restoring_;  // prompts that wait for a saved text, by its name
  std::set<std::string> unrestored_;                         // could not be
  bool saving_prefix_ = false;
  double disk_rate_ = kDiskRate;
  std::deque<StoreJob> jobs_;
  struct Closing {
    bool delete_saved = false;
    Ended done;
  };
  std::map<std::string, Closing> closing_;  // gone from sessions_, and not yet closed on disk
  std::set<std::string> taken_;             // names of sessions that are being read again and not there yet
  std::deque<std::function<void()>> later_;
  Clock::time_point last_idle_look_, last_upload_look_;
  std::shared_ptr<UploadBudget> uploads_;
  std::vector<std::weak_ptr<AppendText>> texts_;  // that arrive, or did
  bool draining_ = false;
  SavedAll saved_all_;
  SessionsStats stats_;
  uint64_t next_id_ = 0, next_tokenising_ = 0;
};

}  // namespace duo
