// Connection: one client's connection from its first byte to its last: requests are read, judged by their header,
// routed, and answered one after the other. What a client sends while it is being answered waits for its turn.
//
// Limits: header and body in bytes; seconds for a header, for the next piece of a body, for the client to take the next
// piece of an answer. A client that closes its side while it is being answered may have closed only that: something
// harmless is written to it, and a reset says that it is gone.
//
// Private to this folder. I/O thread only. Keeps itself alive until it is closed.
#pragma once

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "launcher/serve/http/wire/byte_stream.h"
#include "launcher/serve/http/wire/gate.h"
#include "launcher/serve/http/wire/listener.h"
#include "launcher/serve/http/wire/router.h"

namespace duo::http {

// What the connections of a listener share.
struct Shared {
  ListenerOptions options;
  std::function<void(std::function<void()>)> post;  // to the I/O thread; keeps its loop running while it is held
  bool stopping = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(ByteStream stream, std::shared_ptr<Shared> shared);

  void Start();
  void Refuse(const Refusal& refusal);  // instead of Start, or of a request that goes no further
  void Tick(std::chrono::steady_clock::time_point now);
  void Stop();   // when the answer that is being written is complete; the listener is stopping
  void Close();  // at once
  bool closed() const { return state_ == State::kClosed; }

 private:
  using Clock = std::chrono::steady_clock;
  using Parser = boost::beast::http::request_parser<boost::beast::http::buffer_body>;
  static constexpr size_t kReadBody = 64 << 10;     // bytes of a body that are read at a time
  static constexpr size_t kMostBuffer = 256 << 10;  // of what has come and is not looked at yet
  enum class State { kHandshake, kHeader, kBody, kAnswering, kAnswered, kLingering, kClosed };

  static Clock::time_point In(double seconds);
  void AwaitRequest();
  void ReadOn();
  void OnRead(const ByteStream::Error& error, size_t bytes);
  void OnEnd();
  void Advance();
  // connection_request.cc.
  bool ParseHeader();  // false: it needs more bytes, or the request goes no further
  bool ParseBody();    // likewise
  void OnHeader();
  std::optional<Refusal> Judge(const Header& header, Request& request, Fields& fields);
  void TakeBody(const std::string& piece);

  void BeginAnswer();
  ExchangePtr MakeExchange(Request request, Fields fields);
  void OnAnswered(bool keep);
  void AfterAnswer();
  void Write(std::string bytes, Written written);
  void WriteOn();
  void Linger();
  std::optional<Refusal> HoldBody(int64_t bytes);
  void ReleaseBody();

  const std::shared_ptr<Shared> shared_;
  ByteStream stream_;
  State state_ = State::kHandshake;
  std::string incoming_;  // what is being read goes here: buffer_ may change meanwhile
  boost::beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  std::optional<Clock::time_point> read_deadline_, write_deadline_;
  bool reading_ = false, ended_ = false, begun_ = false;  // begun: a byte of the request is there
  Clock::time_point probed_;

  // The request that is being read.
  Request request_;
  Fields fields_;
  const Route* route_ = nullptr;
  std::string body_;
  int64_t held_ = 0;  // of what bodies may hold
  int64_t body_read_ = 0;

  // The one that is being answered.
  ExchangePtr exchange_;
  std::function<void(std::string piece, bool last)> take_;  // an upload's reader
  bool answered_ = false, keep_ = false;

  struct Piece {
    std::string bytes;
    Written written;
  };
  std::deque<Piece> queue_;
  size_t sent_ = 0;  // of the front
  bool writing_ = false;
};

}  // namespace duo::http
