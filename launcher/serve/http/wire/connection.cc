#include "launcher/serve/http/wire/connection.h"

#include <limits>

#include "kernels/base/seconds.h"

namespace duo::http {
namespace {

constexpr size_t kRead = 2048;
constexpr size_t kMostAhead = 32 << 10;  // bytes of requests that wait behind one that is being answered
constexpr double kHandshakeSeconds = 10, kLingerSeconds = 2, kProbeSeconds = 0.5;
constexpr char kJson[] = "application/json";

}  // namespace

Connection::Clock::time_point Connection::In(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

Connection::Connection(ByteStream stream, std::shared_ptr<Shared> shared)
    : shared_(std::move(shared)), stream_(std::move(stream)), buffer_(kMostBuffer) {}

void Connection::Start() {
  if (!stream_.tls()) return AwaitRequest();
  read_deadline_ = In(kHandshakeSeconds);
  stream_.Handshake([self = shared_from_this()](const ByteStream::Error& error) {
    if (self->closed()) return;
    if (error) return self->Close();
    self->AwaitRequest();
  });
}

void Connection::AwaitRequest() {
  state_ = State::kHeader;
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(shared_->options.max_header));
  parser_->body_limit(std::numeric_limits<uint64_t>::max());  // counted here; Boost 1.74 takes none for 0
  begun_ = false;
  request_ = {};
  fields_.clear();
  route_ = nullptr;
  body_.clear();
  body_read_ = 0;
  if (buffer_.size() == 0) buffer_.shrink_to_fit();
  read_deadline_ = In(shared_->options.idle_seconds);
  Advance();
  if (ended_ && state_ == State::kHeader) return Close();
  ReadOn();
}

void Connection::ReadOn() {
  if (reading_ || ended_ || closed() || state_ == State::kHandshake) return;
  const bool waits = state_ == State::kBody && exchange_ != nullptr && take_ == nullptr;  // an upload's reader is busy
  if (waits || (state_ == State::kAnswering && buffer_.size() >= kMostAhead)) return;
  reading_ = true;
  const size_t most = state_ == State::kBody ? kReadBody : kRead;
  if (incoming_.size() != most) {
    incoming_.resize(most);
    incoming_.shrink_to_fit();
  }
  stream_.Read(boost::asio::buffer(incoming_),
               [self = shared_from_this()](const ByteStream::Error& error, size_t bytes) {
                 self->reading_ = false;
                 self->OnRead(error, bytes);
               });
}

void Connection::OnRead(const ByteStream::Error& error, size_t bytes) {
  if (closed()) return;
  if (error == boost::asio::error::eof) return OnEnd();
  if (error) return Close();
  buffer_.commit(boost::asio::buffer_copy(buffer_.prepare(bytes), boost::asio::buffer(incoming_)));
  Advance();
  ReadOn();
}

// The client will send no more.
void Connection::OnEnd() {
  ended_ = true;
  if (state_ == State::kAnswered) return;  // what came before is still to be looked at
  if (state_ != State::kAnswering || stream_.tls()) return Close();
  probed_ = Clock::now();
  exchange_->Probe();
}

void Connection::Advance() {
  while (true) {
    if (state_ == State::kHeader) {
      if (!ParseHeader()) return;
    } else if (state_ == State::kBody) {
      if (!ParseBody()) return;
    } else {
      if (state_ == State::kLingering) buffer_.consume(buffer_.size());
      return;
    }
  }
}

void Connection::BeginAnswer() {
  state_ = State::kAnswering;
  read_deadline_.reset();
  request_.body = std::move(body_);
  exchange_ = MakeExchange(std::move(request_), std::move(fields_));
  route_->handler(exchange_);
}

ExchangePtr Connection::MakeExchange(Request request, Fields fields) {
  Wire wire;
  answered_ = false;
  wire.write = [self = shared_from_this()](std::string bytes, Written written) {
    self->Write(std::move(bytes), std::move(written));
  };
  wire.done = [self = shared_from_this()](bool keep) { self->OnAnswered(keep); };
  wire.read = [self = shared_from_this(), post = shared_->post](auto take) {
    if (self->closed() || self->state_ != State::kBody) return;
    self->take_ = std::move(take);
    self->read_deadline_ = In(self->shared_->options.body_seconds);
    post([self] {  // not from inside the parser
      self->Advance();
      self->ReadOn();
    });
  };
  wire.post = shared_->post;
  wire.ended = shared_->options.on_ended;
  return std::make_shared<Exchange>(std::move(request), std::move(fields), std::move(wire));
}

void Connection::Refuse(const Refusal& refusal) {
  const ListenerOptions& o = shared_->options;
  if (o.on_refused) o.on_refused(request_, refusal.status);
  if (exchange_ != nullptr) {  // an upload that broke off in its body
    const ExchangePtr exchange = std::exchange(exchange_, nullptr);
    take_ = nullptr;
    exchange->Gone();
  }
  state_ = State::kAnswering;
  read_deadline_.reset();
  request_.keep_alive = request_.keep_alive && parser_.has_value() && parser_->is_done();
  exchange_ = MakeExchange(std::move(request_), std::move(fields_));
  exchange_->Answer(refusal.status, kJson, o.error_body(refusal));
}

// The answer is in the queue, whole.
void Connection::OnAnswered(bool keep) {
  if (closed()) return;
  answered_ = true;
  keep_ = keep && state_ == State::kAnswering && !(ended_ && buffer_.size() == 0) && !shared_->stopping;
  if (queue_.empty()) AfterAnswer();
}

void Connection::AfterAnswer() {
  answered_ = false;
  exchange_ = nullptr;
  take_ = nullptr;
  ReleaseBody();
  if (!keep_ || shared_->stopping) return Linger();
  // From the loop, so that a client's many small requests do not pile up on the stack.
  state_ = State::kAnswered;
  shared_->post([self = shared_from_this()] {
    if (!self->closed()) self->shared_->stopping ? self->Close() : self->AwaitRequest();
  });
}

void Connection::Write(std::string bytes, Written written) {
  if (closed()) {
    if (written) written(false);
    return;
  }
  queue_.push_back({std::move(bytes), std::move(written)});
  WriteOn();
}

void Connection::WriteOn() {
  if (writing_ || queue_.empty() || closed()) return;
  const std::string& front = queue_.front().bytes;
  if (sent_ == 0 || !write_deadline_.has_value()) write_deadline_ = In(shared_->options.write_seconds);
  writing_ = true;
  stream_.Write(boost::asio::buffer(front.data() + sent_, front.size() - sent_),
                [self = shared_from_this()](const ByteStream::Error& error, size_t bytes) {
                  self->writing_ = false;
                  if (self->closed()) return;
                  if (error) return self->Close();
                  self->sent_ += bytes;
                  self->write_deadline_.reset();
                  if (self->sent_ < self->queue_.front().bytes.size()) return self->WriteOn();
                  Piece done = std::move(self->queue_.front());
                  self->queue_.pop_front();
                  self->sent_ = 0;
                  if (done.written) done.written(true);
                  if (!self->queue_.empty()) return self->WriteOn();
                  if (self->answered_) self->AfterAnswer();
                });
}

// The last answer is out. What the client still sends is read for a moment, so that a reset does not take the answer
// from it.
void Connection::Linger() {
  state_ = State::kLingering;
  parser_.reset();
  if (ended_) return Close();
  stream_.EndWriting();
  read_deadline_ = In(kLingerSeconds);
  buffer_.consume(buffer_.size());
  ReadOn();
}

void Connection::ReleaseBody() {
  if (shared_->options.give_body) shared_->options.give_body(held_);
  held_ = 0;
}

void Connection::Tick(Clock::time_point now) {
  if (closed()) return;
  if (write_deadline_.has_value() && now > *write_deadline_) return Close();
  if (read_deadline_.has_value() && now > *read_deadline_) {
    const bool silent = state_ == State::kHandshake || state_ == State::kLingering || !begun_;
    if (silent) return Close();
    return Refuse({408, "the request did not come in time"});
  }
  if (state_ != State::kAnswering || exchange_ == nullptr) return;
  if (ended_) {
    if (stream_.broken()) return Close();
    if (SecondsBetween(probed_, now) > kProbeSeconds) {
      probed_ = now;
      exchange_->Probe();
    }
  }
  const ExchangePtr exchange = exchange_;
  exchange->Tick(now);
}

void Connection::Stop() {
  if (state_ != State::kAnswering) Close();
}

void Connection::Close() {
  if (closed()) return;
  state_ = State::kClosed;
  stream_.Close();
  ReleaseBody();
  read_deadline_.reset();
  write_deadline_.reset();
  take_ = nullptr;
  std::deque<Piece> queue = std::exchange(queue_, {});
  const ExchangePtr exchange = std::exchange(exchange_, nullptr);
  for (Piece& piece : queue) {
    if (piece.written) piece.written(false);
  }
  if (exchange != nullptr) exchange->Gone();
}

}  // namespace duo::http
