// NamedSession: all that the service knows of one session: its state, its append, the questions that run on it and the
// calls that wait for their turn. A value on the engine's thread, owned by Sessions.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/seconds.h"
#include "launcher/serve/sessions/session_view.h"
#include "launcher/serve/sessions/state.h"
#include "runtime/engine/engine.h"
#include "runtime/saved/session_store.h"
#include "runtime/text/session_text.h"

namespace duo {

// The session's append whose text is whole; what it says counts unless the state's append phase is kNone.
struct Append {
  std::string id;               // empty: nobody can take it up again
  std::vector<int32_t> tokens;  // until it is done
  int64_t received_bytes = 0;
  int64_t start = 0;      // tokens of the session before it
  int64_t total = 0;      // its tokens
  SessionText before;     // the session's text before it
  RequestId request = 0;  // of the engine; 0: none now
  CallPtr call;           // whom it answers; null: nobody listens
  Whose whose;
  AppendEvents events;
  std::string sent, frame;  // as AppendInput has them
  AppendDone result;
  std::chrono::steady_clock::time_point begun;
  int64_t begun_at = 0;  // tokens read when `begun` was taken
};

// An append with an id whose text is still arriving, or broke off, or waits for its turn.
struct Upload {
  std::string id;
  std::shared_ptr<AppendText> text;
};

struct Question {
  RequestId request = 0;
  bool keep = false;  // it becomes part of the session
};

// What a call does to its session, which says when its turn comes.
enum class Turn {
  kReads,    // leaves it as it is: may run while it is saved
  kChanges,  // adds to it, or writes it
  kRewinds,  // cuts it: may run when an append has stopped, which it is the way out of
  kAlone,    // likewise, and no question may share its pages
};

struct WaitingCall {
  CallPtr call;
  Turn turn = Turn::kChanges;
  std::function<void(const absl::Status&)> run;
};

struct NamedSession {
  std::string id;
  SessionState state;
  std::string owner = {};
  SessionId session = 0;     // while state.in_cache()
  int64_t moved_tokens = 0;  // otherwise: what it holds on disk
  int64_t max_tokens = 0;
  int64_t reserved_tokens = 0;  // that it was promised room for; what is read needs none of it asked for
  bool durable = false;
  bool pinned = false;         // never moved out
  int64_t durable_tokens = 0;  // on disk
  bool replaces = false;       // a saved session of its name, from whose tokens it was read again
  SessionText text = {};       // behind its tokens, those of its append included
  SentText sent = {};          // where the server keeps it (SessionsOptions::sources); else empty
  uint64_t tokenising = 0;     // not 0: a call whose turn it is waits for the tokens of its text (tails.cc)
  Append append = {};
  Upload upload = {};
  std::vector<Question> questions = {};  // that run
  std::deque<WaitingCall> waiting = {};
  std::chrono::steady_clock::time_point used = {};

  bool keeps() const {
    for (const Question& question : questions) {
      if (question.keep) return true;
    }
    return false;
  }
};

// A save or a restore under way.
struct StoreJob {
  std::string id;
  std::unique_ptr<SaveJob> save;  // one of the two
  std::unique_ptr<RestoreJob> restore;
  std::chrono::steady_clock::time_point begun;
  std::function<void(const absl::Status&, StoreJob&)> done;  // once
  bool dropped = false;                                      // done is called, and nobody wants more of it

  bool waits() const { return save != nullptr ? save->waits() : restore->waits(); }
};

}  // namespace duo
