// Scheduler: rank 0's sessions and requests, turned into one StepPlan after another. Continuous batching: a step has
// rows of many sequences (answers being written, short appends, rings being rebuilt) and, if a long append or question
// waits, a chunk of it, with which the rows ride: they share its reading of the weights, so that both go on at nearly
// the pace that each would have alone.
//
// While answers are being written a chunk is cut so that its step is predicted to stay within max_gap, the time between
// an answer's tokens. Where the answers alone take longer, the gap gives way: a read gets a fifth of the time in any
// case. While another session is open, or a question runs, a chunk stays within max_wait: a question with a short text
// then gets its first token after at most that chunk and its own step. Of the texts that are being read, appends and
// questions in turn, the shortest goes first, but each gets at least a quarter of an equal share of the time.
//
// A prompt may go on where another one's text agrees with it: what is left of earlier prompts (a prefix), an open
// session, a read under way. Prefixes count as room: they are dropped, the cheapest to read again first, where
// something else needs it.
//
// What a step costs to plan grows with the requests that run; those that wait are looked at when something has happened
// that may let them start.
//
// Knows nothing of devices or ranks. Not thread-safe; owned by the engine. Events are called from Complete, Cancel and
// CloseSession.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/base/seconds.h"
#include "runtime/drafts/drafter.h"
#include "runtime/drafts/self_drafts.h"
#include "runtime/files/token_chain.h"
#include "runtime/scheduler/chunk_time.h"
#include "runtime/scheduler/listed_answer.h"
#include "runtime/scheduler/request.h"
#include "runtime/scheduler/scheduler_options.h"
#include "runtime/scheduler/sequence.h"

namespace duo {

class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, const KvSizes& sizes, bool has_whole, bool has_split);
  ~Scheduler();

  // reserved_tokens: as Engine has it.
  absl::StatusOr<SessionId> CreateSession(int64_t max_tokens, std::optional<int64_t> reserved_tokens = std::nullopt);
  absl::Status CloseSession(SessionId id);
  absl::StatusOr<SessionId> Fork(SessionId id, int64_t max_tokens,
                                 std::optional<int64_t> reserved_tokens = std::nullopt);
  absl::Status Reserve(SessionId id, int64_t reserved_tokens);
  absl::Status CheckRoom(SessionId id, int64_t tokens) const;
  absl::Status Rewind(SessionId id, int64_t tokens);
  absl::StatusOr<SessionInfo> Get(SessionId id) const;  // kv_bytes is left 0
  std::vector<SessionId> List() const;
  absl::StatusOr<std::vector<int32_t>> Tokens(SessionId id) const;
  const Sequence* FindSequence(SessionId id) const;  // null when there is none
  // A session of `tokens` whose pages are taken and whose rings hold them up to `rings_at`; what the pages contain is
  // the caller's business (restore, benchmarks).
  absl::StatusOr<SessionId> AdoptSession(int64_t max_tokens, std::vector<int32_t> tokens, bool rings_valid,
                                         std::optional<int64_t> reserved_tokens = std::nullopt);
  void SetSparse(SessionId id, SparseRead sparse);  // how an adopted session was read

  absl::StatusOr<RequestId> Append(SessionId id, std::vector<int32_t> tokens, RequestEvents events,
                                   int64_t more_tokens = 0, const Whose& whose = {});
  absl::StatusOr<RequestId> Ask(SessionId id, std::vector<int32_t> tokens, const GenerateParams& params,
                                RequestEvents events);
  // As Engine has it.
  absl::StatusOr<std::vector<RequestId>> AskMany(SessionId id, std::vector<int32_t> tokens,
                                                 const GenerateParams& params, std::vector<RequestEvents> answers);
  absl::Status Cancel(RequestId id);
  double PredictRead(int64_t tokens, int64_t history) const { return chunk_time_.PredictText(tokens, history); }

  // As Engine has it (scheduler_prefixes.cc).
  absl::Status LetMatch(SessionId id, const std::string& realm);
  std::vector<PrefixInfo> Prefixes();  // kv_bytes is left 0
  int64_t FindPrefix(const std::vector<int32_t>& tokens, const std::string& realm);
  absl::StatusOr<SessionId> AdoptPrefix(std::vector<int32_t> tokens, bool rings_valid, const std::string& realm);
  absl::Status Filled(SessionId id);
  int DropPrefixes();

  // The next step, or false when nothing can run. Cache updates that earlier calls asked for (forks, rewinds) come with
  // it.
  bool Next(StepPlan* plan);
  // The pending cache updates alone, for those who look at pages and rings between steps. False: there are none.
  bool TakeCacheUpdates(StepPlan* plan);
  // What the step gave, and how long it took. Must follow every Next that returned true.
  void Complete(const StepResult& result, double seconds);

  EngineStats stats() const;
  const EngineStats& counted() const { return stats_; }  // of it, what steps add up; the rest is 0
  void ForgetSteps() { stats_ = EngineStats(); }         // what was counted of the steps so far

 private:
  struct Session {
    SessionId id = 0;
    int64_t max_tokens = 0;
    int64_t reserved = 0;  // it has room for so many tokens whatever runs
    int64_t promised = 0;  // tokens of requests that will extend it
    Sequence sequence;
    DraftIndex index;  // of its tokens, where drafts are wanted
    // In order of submission; the front one, and any questions before the next append, may run.
    std::deque<RequestId> queue;
    // In StartWhatCan: what is before a request keeps it from starting; all, or those that extend the session.
    bool stands = false, waits = false;
    std::optional<std::string> realm;  // of prompts that may go on where it is
  };
  // What a prompt left.
  struct Prefix {
    std::string realm;
    Sequence sequence;
    double age = 0;  // prefix_age_ when it was last used
    Clock::time_point used;
    int64_t hits = 0;
    bool filling = false;  // its pages are being read from a disk: it is neither met nor dropped
  };
  struct Request {
    RequestId id = 0;
    Session* session = nullptr;
    bool ask = false;
    std::vector<int32_t> tokens;
    int64_t more_tokens = 0;  // of an append: that will follow, and need room before it starts
    GenerateParams params;
    Whose whose;
    RequestEvents events;
    RequestResult result;
    Sequence fork;                 // of a question that does not keep
    Sequence* sequence = nullptr;  // null until it starts
    size_t fed = 0;                // of `tokens`
    TokenCounts counts;            // of the answer, where a penalty asks
    bool drawing = false;          // prompt fed; tokens.back() is the last drawn token, to be fed next
    bool closing = false;          // an answer that is kept: its last token is still to be fed
    RequestId reader = 0;          // reads the question for this answer too, which has no tokens meanwhile; 0: nobody
    std::vector<RequestId> followers;  // whose reader it is; they fork when all but the last token is fed
    size_t scored = 0;                 // the last token of the question whose score was reported
    // Of the time that chunks took since it began to wait for them: its own, and what an equal share would be.
    double chunk_seconds = 0, chunk_share = 0;
    bool had_chunk = false;
    bool begun = false;  // a step had rows of it
    // Of one that shares what is in the cache (params.prefix).
    std::vector<uint32_t> chain;  // of tokens
    RequestId joins = 0;          // the read that it waits for
    int64_t stop_at = 0;          // a chunk of it ends at this length, because others go on there; 0: nowhere
    bool leaves_copy = false;     // when all but its last token is fed
    Drafter drafter;
    std::vector<int32_t> drafts;  // that its rows of the planned step check
    // The model's own: drawn from rows that see less, and not checked yet; wanted: so many are to be; guessing: its row
    // of the planned step is for the next one.
    std::vector<int32_t> guesses;
    int guesses_wanted = 0;
    GuessKind guess_kind = GuessKind::kLists;
    bool guessing = false;
    SelfDrafts self;
    ListedAnswer lists;
    Clock::time_point submitted, started, prompt_done;
  };
  // What rides in a step besides a chunk, in the order in which places are given.
  struct Riding {
    std::vector<std::pair<Request*, int>> requests;  // with their rows
    std::vector<std::pair<Session*, int>> rebuilds;
    std::vector<std::pair<Request*, int>> refeeds;
    int rows = 0, samples = 0;
    Riders riders;
    bool urgent = false;                 // somebody waits for a token that it brings nearer
    void Add(int64_t first, int count);  // rows of a sequence from position `first` on
  };
  // The chunk of the step that was planned last; no rows: it has none.
  struct Chunk {
    int64_t rows = 0, history = 0;
    Riders riders;
    RequestId request = 0;
    std::vector<RequestId> waiting;  // those of its kind that wanted it
    std::vector<int32_t> densities;  // of its blocks that are read by lists
  };
  // Rows of the step that was planned last: a request's, or of a session whose rings are being rebuilt.
  struct Part {
    RequestId request = 0;
    SessionId rebuilt = 0;
    bool refeeds = false;  // rings of the request's own fork
    int rows = 0;
    int samples = 0;     // of the plan's sampled rows
    bool draws = false;  // the last of them is the answer's next token
    bool guesses = false;
    GuessKind guess_kind = GuessKind::kLists;
    ListUse list_use = ListUse::kNone;
  };

  // Page ids.
  struct Room {
    int64_t pages = 0, split_pages = 0;
    bool holds(const Room& other) const { return other.pages <= pages && other.split_pages <= split_pages; }
  };
  // Where a question begins: its session, or what a prompt goes on with.
  struct Origin {
    Sequence* sequence = nullptr;
    int64_t at = 0;
    bool exact = true;         // its rings are those of `at` tokens
    Prefix* prefix = nullptr;  // that it is
    SessionId session = 0;     // likewise, of another session
    bool read = false;         // likewise, of a read under way
    int64_t most = INT64_MAX;  // tokens of it that may be gone on with
    double seconds = 0;        // predicted, to be where the whole prompt is read
  };

  static absl::Status NoSession(SessionId id);
  absl::Status RoomForSession() const;
  SessionId AddSession(int64_t max_tokens, Sequence sequence);
  absl::StatusOr<RequestId> Submit(Session* session, Request request);
  static absl::Status CheckQuestion(const GenerateParams& params);
  RequestId Queue(Session* session, Request request);
  bool ExtendsSession(const Request& r) const { return !r.ask || r.params.keep; }
  int StandingRequests(const Session& session) const;
  absl::Status CheckFits(const Session& session, int64_t before, int64_t tokens) const;
  absl::Status CheckLimit(int64_t max_tokens) const;
  Room RoomNow() const { return {pool_.pages().available(), pool_.split_pages().available()}; }
  // Room (scheduler_room.cc). What is available, or will be when the questions that run have been answered and every
  // prefix is dropped.
  Room RoomToCome() const { return RoomAfter(true, nullptr, 0); }
  Room RoomAfter(bool answers, const Prefix* kept, int64_t kept_tokens) const;
  Room NeededBehind(int64_t shared, int64_t tokens) const;
  Room NeededFor(const Sequence& sequence, int64_t room) const;
  bool MakeRoom(const Room& needed, const Origin* origin = nullptr);
  bool DropCheapest(const Prefix* but = nullptr);
  double WorthOf(const Prefix& prefix) const;
  bool CutOff(Sequence& sequence, int64_t tokens);
  // Prefixes (scheduler_prefixes.cc).
  bool Shares(const Request& r) const {
    return r.ask && r.params.prefix.on && !r.params.keep && !options_.sparsity.on();
  }
  double PredictPrompt(int64_t tokens, int64_t history) const;
  double PredictRebuild(int64_t at) const;
  Origin OriginOf(Request& request);
  void Consider(const Request& request, Origin candidate, Origin* best) const;
  bool Join(Request& request, const Origin& best);
  static int64_t WillShare(const std::vector<int32_t>& tokens, const std::vector<uint32_t>& chain, Request& read);
  bool PlaceForPrefix();
  void GoOnAt(Request& request, const Origin& origin);
  Prefix* Known(const std::string& realm, Sequence& sequence);
  void LeaveCopy(Request& request);
  bool Leave(Request& request);
  SessionId AddPrefix(const std::string& realm, Sequence sequence);
  absl::Status TakeRoom(Request& request);
  static int64_t Unfed(const Request& r);
  int64_t Remaining(const Request& r) const { return static_cast<int64_t>(r.tokens.size() - r.fed); }
  void StartWhatCan();
  std::vector<Request*> MayStart();
  bool LastPlaceIsForOthers(const Request& request) const;
  // OK: it runs, or waits for what others will give back; an error: it can never run as things are. to_come: RoomToCome
  // where somebody has asked for it already.
  absl::Status TryStart(Request& request, std::optional<Room>* to_come);
  void CountStarted(const Request& request);
  // Several answers to one question (scheduler_answers.cc).
  void TryFollow(Request& follower);
  // All of its question but the last token, and its rings are those of that place: others can fork it.
  bool HasRead(const Request& r) const {
    return r.sequence != nullptr && !NeedsRebuild(*r.sequence) && !r.drawing && Remaining(r) == 1;
  }
  bool StopsBeforeLast(const Request& r) const { return !r.followers.empty() || r.leaves_copy; }
  bool WaitsForFollowers(const Request& r) const { return !r.followers.empty() && HasRead(r); }
  void LetReadersGo();
  void HandOver(Request& reader, std::vector<int32_t> tokens);
  bool Paused(const Request& r) const {
    return WaitsForFollowers(r) || (r.drawing && r.events.pause && r.events.pause());
  }
  static bool NeedsRebuild(const Sequence& s) { return s.rings_at < s.length; }
  // Every row of it that is fed is looked at.
  static bool Scored(const Request& r) {
    return r.ask ? r.params.rules.prompt_scores >= 0 && !r.drawing : r.events.on_logits != nullptr;
  }
  int64_t MostRows(const Request& r) const {
    const int64_t last = StopsBeforeLast(r) ? 1 : 0;  // of a question that others fork before its last token
    const int64_t stop = r.stop_at > r.sequence->length ? r.stop_at - r.sequence->length : options_.chunk;
    return std::min<int64_t>({std::max<int64_t>(Remaining(r) - last, 1), options_.chunk, stop,
                              Scored(r) ? options_.max_samples : options_.chunk});
  }
  bool IsLong(const Request& r) const { return MostRows(r) > kMaxDecodeRows; }
  void AddSpan(const Sequence& sequence, int64_t first, const int32_t* tokens, int rows, bool refeed, StepPlan* plan);
  void AddRows(Request& request, int rows, StepPlan* plan);
  void AddDraw(const Request& request, int row, int before, const std::vector<uint32_t>& mask, StepPlan* plan,
               bool guess = false);
  int AddSamples(Request& request, int rows, bool draws, const std::vector<uint32_t>& mask, StepPlan* plan);
  // Sparse reading (scheduler_sparse.cc).
  bool ReadsSparsely(const Request& request) const;
  int64_t SparseEnd(const Request& request) const;
  int64_t AlignedRows(const Request& request, int64_t rows) const;
  void PlanSparse(Request& request, int64_t rows, StepPlan* plan);
  void OnAudited(Request& request, const SparseAudits& audits);
  bool ReadAlike(const Sequence& sequence) const;
  // Drafts (scheduler_drafts.cc).
  static bool MayDraft(const Request& r);
  int MostDrafts(const Request& r, int room) const;
  void PlanDrafts(bool beside_chunk, Riding* riding);
  void AddDraftRows(Request& request, StepPlan* plan);
  // The model's own (scheduler_guesses.cc).
  bool MayGuess(const Request& r) const { return options_.guesses && MayDraft(r) && r.self.on(); }
  MayGuessBy CanGuess(const Request& r, GuessKind kind, int64_t position) const;
  void PlanGuess(Request& request, int most, Riding* riding);
  void CheckGuesses(Request& request, int most, Riding* riding);
  void GuessTogether(int most_rows, Riding* riding);
  bool GuessesReadLess(const Riding& riding) const;
  GuessAsked AskedOf(const Request& r) const;
  void AskModel(int most_rows, Riding* riding);
  void AddGuessRow(Request& request, StepPlan* plan);
  void OnGuessed(Request& request, GuessKind kind, int32_t token);
  void OnDrafted(Request& request, const StepResult& result, size_t first);
  // Page lists of answers (scheduler_lists.cc).
  bool MayBeListed(const Request& r) const;
  void PlanLists(StepPlan* plan);
  void PlanChoice(Request& request, SeqSpan* span);
  void OnListed(Request& request, const Part& part, const ChosenLists& lists, size_t chosen);
  void GiveBackLists(Request& request);
  void AddRebuild(const Sequence& sequence, Part part, StepPlan* plan);
  static void BeginSteps(Request& request);
  Riding PickRiding(std::vector<Request*> rows, const std::vector<Request*>& refeeds, const Request* chunk);
  // A step of these rows alone.
  double PredictedRows(const Riders& riders) const { return rows_base_ + chunk_time_.Predict(0, 0, riders); }
  int64_t ChunkRows(const Request& request, const Riding& riding) const;
  void AddChunk(Request& request, const Riding& riding, const std::vector<Request*>& chunks, StepPlan* plan);
  double PredictedWait() const;
  Request* ChooseChunk(const std::vector<Request*>& chunks);
  double PredictedRead(const Request& request) const;
  void WelcomeReader(const Request& request, const std::vector<Request*>& chunks);
  void TakeTurns(std::vector<Request*>* rows, int places);
  void CountStep(double seconds);
  void CountChunk(double seconds);
  // What a step means for one part of it.
  bool OnRebuilt(Sequence& rebuilt, int rows);
  void OnFed(Request& request, int rows);
  void OnSampled(Request& request, const StepResult& result, size_t sample);
  void ReportScores(Request& request, const StepResult& result, size_t first, const Part& part);
  static void ReportLogits(const Request& request, const StepResult& result, size_t first, size_t count);
  void Finish(Request& request, absl::Status status, Finish finish);

  SchedulerOptions options_;
  SequencePool pool_;
  std::map<SessionId, Session> sessions_;
  std::map<RequestId, Request> requests_;
  std::map<RequestId, Request*> running_;  // of them, those that have a sequence
  std::map<SessionId, Prefix> prefixes_;   // numbered as sessions are
  double prefix_age_ = 0;  // what the last one that was dropped was worth: who is not used for long falls behind
  struct CallerCounts {
    int questions = 0;         // that run
    int64_t started = 0;       // questions, in all
    double chunk_seconds = 0;  // of its long texts, since there was nobody's to be read
  };
  std::map<std::string, CallerCounts> callers_;
  bool may_start_ = false;  // something happened since StartWhatCan that may let a request start
  SessionId next_session_ = 1;
  RequestId next_request_ = 1;
  StepPlan cache_updates_;             // table writes and copies that the next plan carries
  std::vector<Part> parts_;            // of the last plan
  std::vector<int32_t> mass_samples_;  // likewise
  Chunk chunk_;
  Riders riders_;           // of the last plan
  RequestId last_row_ = 0;  // the last request that had a place in a rows step too small for all
  bool last_chunk_asked_ = false;
  int running_questions_ = 0;
  ChunkTime chunk_time_;
  DraftOdds draft_odds_;
  StepCosts step_costs_;
  GuessCosts guess_costs_;
  double rows_seconds_ = 0;  // of a rows step, as the last ones were
  double rows_base_ = 0;     // of these, what does not follow from the rows' number and history
  EngineStats stats_;
  std::vector<int> list_slots_;  // that are free
};

}  // namespace duo
