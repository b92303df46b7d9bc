// AppendJob: one append as its client sees it: pieces come up, progress goes down. Pieces are taken on the transport's
// threads, one at a time; when the client has sent the last one the engine's thread gets the whole text.
//
// The next piece is asked for when the last one is taken (backpressure). Sessions keeps the text of an append with an
// id, so that a later call can go on with it. Held by shared_ptr: by the transport as long as it may call, and by what
// the job has posted.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "launcher/serve/calls/call_stream.h"
#include "launcher/serve/calls/context.h"

namespace duo {

// One message of the client.
struct AppendPiece {
  // Looked at in the first message only.
  std::string session_id = {}, append_id = {};
  bool special = false;  // special tokens' text becomes those tokens
  int32_t priority = 0;  // as of a question
  bool seam = false;     // it is a text of its own, whatever is before and behind it
  bool chat = false;     // it begins a conversation

  int64_t offset = 0;                // where the piece begins in the append's text, in bytes; for tokens in tokens
  std::string text = {};             // may end inside a character
  std::vector<int32_t> tokens = {};  // instead of text
};

struct AppendStats {
  double queue_seconds = 0, read_seconds = 0, checkpoint_seconds = 0;
  int64_t checkpoints = 0;
};

struct AppendUpdate {
  int64_t received_bytes = 0;
  int64_t tokens = 0, total_tokens = 0;  // read so far; 0 until all text is there
  double seconds_left = 0;               // 0 while unknown
  bool waiting = false;                  // other work is in front
  bool done = false;                     // the last message
  std::optional<SessionView> session;    // in the first and the last message
  std::optional<AppendStats> stats;      // in the last message

  AppendUpdate Take() {
    AppendUpdate taken = *this;
    session.reset();
    return taken;
  }
};

class AppendJob : public std::enable_shared_from_this<AppendJob> {
 public:
  AppendJob(CallContext& context, CallTransport<AppendUpdate> transport) : c_(context), stream_(std::move(transport)) {}

  // Checks the caller and asks for the first piece. Once, first.
  void Start(const Caller& caller);
  void Take(AppendPiece piece);  // what the transport was asked to read
  void TakeEnd();                // instead: the client has sent everything
  void Written(bool ok) { stream_.Written(ok); }
  void Refuse(const absl::Status& why);  // instead: the transport cannot take the piece
  void Cancel();                         // the client is gone or its deadline is over; also after the end

 private:
  void Open(AppendPiece first);
  void Add(const AppendPiece& piece);
  absl::StatusOr<int64_t> Keep(const AppendPiece& piece);  // bytes received now; 0: as before
  absl::Status CheckRoom(const AppendText& text, int64_t more, bool bytes) const;
  void OnProgress(const AppendProgress& progress);
  void OnRead(const AppendDone& done);
  template <typename Change>
  void Progress(Change change);
  void Finish(const absl::Status& status, std::vector<SpanPart> parts = {}, std::vector<SpanField> fields = {});

  CallContext& c_;
  const CallPtr call_ = std::make_shared<Call>();
  CallStream<AppendUpdate> stream_;

  // Of the uploading side: one piece at a time.
  Identity who_;
  Caller caller_;  // by which the call is named
  std::chrono::steady_clock::time_point begun_;
  bool opened_ = false, special_ = false, seam_ = false, chat_ = false;
  int32_t priority_ = 0;
  std::string session_id_, append_id_;
  int64_t max_tokens_ = 0;            // of the session
  std::shared_ptr<AppendText> text_;  // null: all of it is at Sessions already
  int64_t received_ = 0;              // set before it is fed

  std::chrono::steady_clock::time_point last_progress_;  // in the stream's updates, one at a time

  std::mutex mutex_;  // guards what follows
  bool fed_ = false, ended_ = false;
  uint64_t activity_ = 0;  // its number there; 0: it has not begun
};

}  // namespace duo
