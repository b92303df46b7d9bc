// A random walk through the sessions' state table: random calls on a few sessions, cancelled, met by faults of the
// disk, crashes and power cuts, against a simple model of what should be. Everything follows from the seed.
//
// The parts: sessions_walk.cc (the walk), walk_calls.cc (calls and their answers), walk_faults.cc (what befalls them),
// walk_model.cc (what should be).
//
// The model is what a client may rely on: what each session holds, by the answers it got, and what of it must be on
// disk.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "launcher/serve/sessions/sessions.h"
#include "tests/equivalence/fault_disk.h"

namespace duo {

struct WalkOptions {
  int64_t most_tokens = 500;  // of a session
  int64_t checkpoint = 100;
  bool threaded = false;  // the store has its thread: what follows from the seed alone is then the calls
};

struct WalkCounts {
  int64_t calls = 0, refused = 0;  // for the state of what they were for
  int64_t cancelled = 0, faults = 0, crashes = 0;
  std::map<std::pair<Place, Place>, int64_t> places;
  std::map<std::pair<AppendPhase, AppendPhase>, int64_t> phases;
};

// The session was not such that the call could be taken: nothing was done.
inline bool RefusedForState(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsNotFound(status) || absl::IsAlreadyExists(status);
}

// Cancelled while it waited: nothing was done either.
inline bool BeforeItsTurn(const absl::Status& status) { return status.message() == "the call was cancelled"; }

class SessionsWalk {
 public:
  using Tokens = std::vector<int32_t>;

  // What a walk is on; the engine reads and writes its pages by disk.Files() too. All of it outlives the walk.
  struct Ground {
    Engine& engine;
    FaultDisk& disk;
    std::string model_dir;
    const Log& log;
  };
  SessionsWalk(const WalkOptions& options, const Ground& ground, uint64_t seed, WalkCounts* counts);
  ~SessionsWalk();

  void Go(int calls);  // ends at the first thing that is wrong

 private:
  // What should be of one session.
  struct Doc {
    bool open = false;  // at the server, in whatever place; otherwise saved
    bool durable = false;
    Tokens now;
    // An append with an id that did not reach its end: the session is to be rewound, or the append repeated.
    struct Stopped {
      std::string id;
      int64_t start = 0;
      Tokens text;
    };
    std::optional<Stopped> stopped;
    // On disk: what was promised, or what was begun since: a beginning of one of `states` with `least` tokens or more.
    bool promised = false;
    int64_t least = 0;
    std::vector<Tokens> states;
    std::multiset<int64_t> cuts;  // lengths that rewinds which are not answered yet cut it to, on disk perhaps already
  };

  // Random numbers.
  uint64_t Draw(uint64_t below);
  bool Chance(int percent) { return Draw(100) < static_cast<uint64_t>(percent); }
  Tokens Text(int64_t count);
  std::string Pick(bool open);  // a session; empty: none

  void OneCall();
  void Create();
  void Append(const std::string& id);
  void GoOn(const std::string& id);  // with an append that stopped
  void Upload(const std::string& id);
  void Ask(const std::string& id, bool keep);
  void Fork(const std::string& id);
  void Rewind(const std::string& id);
  void Save(const std::string& id);
  void Restore(const std::string& id);
  void Close(const std::string& id, bool delete_saved);
  void CancelOne();
  void Fault();
  void Crash();
  void MoveOut();
  void SomeSteps();

  void Open();
  void Run();      // until nothing is left to do
  void Compare();  // everything with the model, when nothing runs
  void AfterCrash();
  void Read(const std::string& id, const CallPtr& call, AppendInput input, const Tokens& text);
  CallPtr Begin();  // a call that may be cancelled
  void End(const CallPtr& call, const absl::Status& status);
  void ExpectLength(const std::string& id, const char* after);
  absl::StatusOr<SessionStore::Texts> OnDisk(const std::string& id);
  void Extend(Doc& doc, const Tokens& text);
  void Cut(Doc& doc, int64_t tokens);
  void Promise(Doc& doc);
  static int64_t Least(const Doc& doc, int64_t promised);  // that may be on disk while rewinds are under way
  void StateFrom(const std::string& id, const Tokens& found, const char* when);
  bool MayBeUndone(const Doc& doc) const;

  const WalkOptions options_;
  Engine& engine_;
  FaultDisk& disk_;
  FileSystem files_;
  const std::string model_dir_;
  uint64_t random_;
  WalkCounts* counts_;
  const Log& log_;
  std::unique_ptr<SessionStore> store_;
  std::unique_ptr<Sessions> sessions_;
  std::map<std::string, Doc> docs_;
  std::vector<CallPtr> running_;
  std::set<const Call*> cancelled_;
  bool trouble_ = false;  // a fault may have happened since all was compared
  int next_ = 0;
  std::vector<std::string> trace_;  // the last things that were done
};

}  // namespace duo
