// Requests as they come in: the header, what can be said against a request by it alone, the body.
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "launcher/serve/http/wire/connection.h"

namespace duo::http {
namespace {

namespace beast = boost::beast;

template <typename Fields>
Header HeaderOf(const Fields& message) {
  Header header;
  header.method = std::string(message.method_string());
  header.target = std::string(message.target());
  header.version = static_cast<int>(message.version());
  for (const auto& field : message) {
    header.fields.emplace_back(absl::AsciiStrToLower(std::string(field.name_string())), std::string(field.value()));
  }
  return header;
}

}  // namespace

bool Connection::ParseHeader() {
  if (!begun_) {
    const auto* bytes = static_cast<const char*>(buffer_.data().data());
    if (buffer_.size() >= 2 && bytes[0] == '\r' && bytes[1] == '\n') {  // some clients end a body like this
      buffer_.consume(2);
      return true;
    }
  }
  if (buffer_.size() == 0) return false;
  if (!begun_ && !absl::ascii_isalpha(*static_cast<const char*>(buffer_.data().data()))) {  // TLS, say
    Refuse({400, "the request is not HTTP/1.1: it does not begin with a method"});
    return false;
  }
  if (!begun_) read_deadline_ = In(shared_->options.header_seconds);
  begun_ = true;
  ByteStream::Error error;
  buffer_.consume(parser_->put(buffer_.data(), error));
  if (error == beast::http::error::need_more) return false;
  if (error == beast::http::error::header_limit) {
    Refuse({431, absl::StrCat("the header has more than ", shared_->options.max_header, " bytes")});
    return false;
  }
  if (error) {
    Refuse({400, absl::StrCat("the request is not HTTP/1.1: ", error.message())});
    return false;
  }
  if (!parser_->is_header_done()) return false;
  OnHeader();
  return state_ == State::kBody;
}

// What can be said against a request by its header alone.
std::optional<Refusal> Connection::Judge(const Header& header, Request& request, Fields& fields) {
  const ListenerOptions& o = shared_->options;
  std::variant<Request, Refusal> read = ReadHeader(header);
  if (Refusal* refusal = std::get_if<Refusal>(&read)) {
    request.keep_alive = false;  // where one request ends and the next begins is not sure
    return *refusal;
  }
  request = std::move(std::get<Request>(read));
  if (!request.request_id.empty()) fields.emplace_back("X-Request-Id", request.request_id);
  if (!request.traceparent.empty()) fields.emplace_back("traceparent", request.traceparent);
  GateRules rules = {IsLoopback(o.address), o.address.substr(0, o.address.rfind(':')), o.origins};
  if (std::optional<Refusal> refusal = CheckSender(rules, header, request)) return refusal;
  const std::string origin = AllowedOrigin(rules, request);
  if (!origin.empty()) {
    fields.emplace_back("Access-Control-Allow-Origin", origin);
    fields.emplace_back("Vary", "Origin");
  }
  if (request.method == "OPTIONS" && !origin.empty()) return std::nullopt;  // a browser's question carries no token
  std::string allow;
  const std::variant<const Route*, Refusal> found = o.router.Find(request, &allow);
  const auto* route = std::get_if<const Route*>(&found);
  if (route == nullptr || !(*route)->open) {
    if (std::optional<Refusal> refusal = o.authenticate(request)) {
      if (refusal->status == 401) fields.emplace_back("WWW-Authenticate", "Bearer");
      return refusal;
    }
  }
  if (route == nullptr) {
    if (!allow.empty()) fields.emplace_back("Allow", allow);
    return std::get<Refusal>(found);
  }
  route_ = *route;
  if (request.method != "GET" && request.method != "HEAD" && request.method != "DELETE") {
    if (std::optional<Refusal> refusal = CheckContentType(request, route_->upload)) return refusal;
  }
  const int64_t length = request.content_length.value_or(0);
  if (!route_->upload && length > o.max_body) {
    return Refusal{413,
                   absl::StrCat("the body has ", length, " bytes; at most ", o.max_body, " are taken (--max-body)"),
                   "body_too_large"};
  }
  if (route_->upload || !o.take_body) return std::nullopt;
  std::optional<Refusal> full = o.take_body(length);  // what could not fit now is not waited for
  if (!full.has_value()) o.give_body(length);
  if (full.has_value()) fields.emplace_back("Retry-After", "5");
  return full;
}

void Connection::OnHeader() {
  if (std::optional<Refusal> refusal = Judge(HeaderOf(parser_->get().base()), request_, fields_)) {
    return Refuse(*refusal);
  }
  if (shared_->stopping) request_.keep_alive = false;
  if (request_.method == "OPTIONS") {
    fields_.emplace_back("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE");
    fields_.emplace_back("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id, Traceparent");
    fields_.emplace_back("Access-Control-Max-Age", "600");
    state_ = State::kAnswering;
    read_deadline_.reset();
    exchange_ = MakeExchange(std::move(request_), std::move(fields_));
    return exchange_->Answer(204, "", "");
  }
  state_ = State::kBody;
  read_deadline_ = In(shared_->options.body_seconds);
  parser_->eager(true);
  if (request_.expects_continue && request_.has_body()) Write("HTTP/1.1 100 Continue\r\n\r\n", nullptr);
  if (!route_->upload) return;
  exchange_ = MakeExchange(std::move(request_), std::move(fields_));
  route_->handler(exchange_);
}

bool Connection::ParseBody() {
  const bool upload = exchange_ != nullptr;
  if (upload && take_ == nullptr) return false;
  std::string piece;
  while (!parser_->is_done() && buffer_.size() > 0) {
    char bytes[16 << 10];
    auto& body = parser_->get().body();
    body.data = bytes;
    body.size = sizeof bytes;
    body.more = true;
    ByteStream::Error error;
    const size_t used = parser_->put(buffer_.data(), error);
    buffer_.consume(used);
    piece.append(bytes, sizeof bytes - body.size);
    if (error == beast::http::error::need_buffer) error = {};
    if (error == beast::http::error::need_more || (!error && used == 0)) break;
    if (error) {
      Refuse({400, absl::StrCat("the body is not HTTP/1.1: ", error.message())});
      return false;
    }
  }
  body_read_ += static_cast<int64_t>(piece.size());
  const bool done = parser_->is_done();
  if (!done && buffer_.size() >= kMostBuffer - kReadBody) {  // a chunk's line without an end
    Refuse({400, "the body's chunks are not HTTP/1.1"});
    return false;
  }
  if (!piece.empty()) read_deadline_ = In(shared_->options.body_seconds);
  if (upload) {
    if (piece.empty() && !done) return false;
    if (done) {
      state_ = State::kAnswering;
      read_deadline_.reset();
    }
    std::exchange(take_, nullptr)(std::move(piece), done);
    return !done && take_ != nullptr && buffer_.size() > 0;
  }
  TakeBody(piece);
  if (state_ != State::kBody) return false;
  if (!done) return false;
  BeginAnswer();
  return false;
}

void Connection::TakeBody(const std::string& piece) {
  const ListenerOptions& o = shared_->options;
  if (body_read_ > o.max_body) {
    return Refuse({413,
                   absl::StrCat("the body has more than ", o.max_body, " bytes, the most that are taken (--max-body)"),
                   "body_too_large"});
  }
  if (std::optional<Refusal> full = HoldBody(static_cast<int64_t>(piece.size()))) {
    fields_.emplace_back("Retry-After", "5");
    return Refuse(*full);
  }
  body_ += piece;
}

// Counted as it comes: who announces much and sends nothing holds nothing.
std::optional<Refusal> Connection::HoldBody(int64_t bytes) {
  if (!shared_->options.take_body || bytes == 0) return std::nullopt;
  std::optional<Refusal> full = shared_->options.take_body(bytes);
  if (!full.has_value()) held_ += bytes;
  return full;
}

}  // namespace duo::http
