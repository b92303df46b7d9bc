// Exchange: one request and its answer. Handlers answer at once, later, or as a stream whose pieces are written one
// after the other; a client that is gone is told to them once.
//
// Everything but Post is called on the I/O thread. Held by shared_ptr: by the connection until the answer is complete,
// and by whoever answers. Only names and values that this program makes go into headers.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "launcher/serve/http/wire/request.h"

namespace duo::http {

using Fields = std::vector<std::pair<std::string, std::string>>;
using Written = std::function<void(bool ok)>;

// What the connection does for an exchange.
struct Wire {
  // To the I/O thread, from any; its loop runs as long as this is held. First, so that it goes last.
  std::function<void(std::function<void()>)> post;
  std::function<void(std::string bytes, Written written)> write;
  std::function<void(bool keep)> done;  // the answer is complete; keep: the connection may be used again
  // The next piece of an upload's body.
  std::function<void(std::function<void(std::string piece, bool last)>)> read;
  // It was answered, or its client is gone (499). Once; may be null.
  std::function<void(const Request& request, int status, double seconds)> ended;
};

// What is written while there is nothing to say, so that the client and what lies between does not give up. What is
// said then comes behind one more of it, in one piece: some clients strip every piece that they read, and would
// otherwise take a comment and the event behind it for one line.
struct KeepAlive {
  double first = 0, every = 0;  // seconds; 0: never
  std::string bytes, content_type;
};

class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(Request request, Fields fields, Wire wire)
      : request(std::move(request)), wire_(std::move(wire)), fields_(std::move(fields)) {}

  // The whole answer. Where bytes that keep alive have gone out already, the rest of it, its status lost.
  void Answer(int status, absl::string_view content_type, absl::string_view body, const Fields& more = {});
  // An answer in pieces: a beginning, writes, an end. `written` comes when the next piece may be written.
  void Begin(int status, absl::string_view content_type, const Fields& more = {});
  void Write(std::string piece, Written written = nullptr);
  void End();

  // Called once, when the client is gone before its answer is complete; at once where it is already.
  void OnGone(std::function<void()> gone);
  // Called about every tenth of a second until the answer is complete or its client gone, where nothing is being
  // written.
  void OnTick(std::function<void(std::chrono::steady_clock::time_point now)> tick) { on_tick_ = std::move(tick); }
  void KeepAliveWith(KeepAlive keep) { keep_ = std::move(keep); }
  // The next piece of an upload.
  void Read(std::function<void(std::string piece, bool last)> take) { wire_.read(std::move(take)); }
  // Runs `closure` on the I/O thread. Any thread.
  void Post(std::function<void()> closure) { wire_.post(std::move(closure)); }

  bool begun() const { return begun_; }
  bool complete() const { return complete_; }
  bool gone() const { return gone_; }

  // For the connection.
  void Gone();
  void Tick(std::chrono::steady_clock::time_point now);  // about every tenth of a second
  void Probe();  // writes something harmless, to which a client that is gone answers with a reset

  Request request;

 private:
  using Clock = std::chrono::steady_clock;
  std::string Head(int status, absl::string_view content_type, const Fields& more, bool length, size_t bytes) const;
  void Send(std::string bytes, Written written);
  void Tend();
  void Ended(int status);
  std::string Chunk(absl::string_view piece) const;
  bool bodiless() const { return request.method == "HEAD"; }

  const Wire wire_;
  const Fields fields_;  // of every answer
  KeepAlive keep_;
  std::function<void()> on_gone_;
  std::function<void(Clock::time_point now)> on_tick_;
  std::string head_;  // of a stream, until its first piece
  int writing_ = 0;
  const Clock::time_point came_ = Clock::now();
  Clock::time_point last_ = came_;  // that something was written
  int status_ = 0;                  // of the answer that has begun
  bool begun_ = false, complete_ = false, gone_ = false;
  bool kept_alive_ = false;  // by a beginning with nothing to say
  bool tended_ = false;      // keep_.bytes were written last
};
using ExchangePtr = std::shared_ptr<Exchange>;

const char* ReasonOf(int status);

}  // namespace duo::http
