#include "launcher/serve/http/wire/exchange.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/seconds.h"

namespace duo::http {

const char* ReasonOf(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
  }
  return "Answer";
}

std::string Exchange::Head(int status, absl::string_view content_type, const Fields& more, bool length,
                           size_t bytes) const {
  std::string head = absl::StrCat("HTTP/1.1 ", status, " ", ReasonOf(status), "\r\n");
  if (!content_type.empty()) absl::StrAppend(&head, "Content-Type: ", content_type, "\r\n");
  if (length) {
    if (status != 204) absl::StrAppend(&head, "Content-Length: ", bytes, "\r\n");
  } else {
    head += "Cache-Control: no-cache\r\n";
    if (!request.http10) head += "Transfer-Encoding: chunked\r\n";
  }
  for (const Fields* fields : {&fields_, &more}) {
    for (const auto& [name, value] : *fields) absl::StrAppend(&head, name, ": ", value, "\r\n");
  }
  if (!request.keep_alive || (!length && request.http10)) {
    head += "Connection: close\r\n";
  } else if (request.http10) {
    head += "Connection: keep-alive\r\n";
  }
  return head + "\r\n";
}

std::string Exchange::Chunk(absl::string_view piece) const {
  if (bodiless() || piece.empty()) return "";
  if (request.http10) return std::string(piece);
  return absl::StrCat(absl::Hex(piece.size()), "\r\n", piece, "\r\n");
}

void Exchange::Send(std::string bytes, Written written) {
  last_ = Clock::now();
  ++writing_;
  wire_.write(std::move(bytes), [self = shared_from_this(), written = std::move(written)](bool ok) {
    --self->writing_;
    if (written) written(ok);
  });
}

void Exchange::Ended(int status) {
  if (wire_.ended) wire_.ended(request, status, SecondsSince(came_));
}

void Exchange::Answer(int status, absl::string_view content_type, absl::string_view body, const Fields& more) {
  if (complete_) return;
  if (begun_) {
    DUO_CHECK_MSG(kept_alive_, "an answer was given inside a stream");
    Write(std::string(body));
    return End();
  }
  begun_ = complete_ = true;
  on_gone_ = nullptr;
  on_tick_ = nullptr;
  if (!gone_) Ended(status);
  if (!gone_)
    Send(Head(status, content_type, more, true, body.size()) + (bodiless() ? "" : std::string(body)), nullptr);
  wire_.done(request.keep_alive);
}

void Exchange::Begin(int status, absl::string_view content_type, const Fields& more) {
  if (complete_ || begun_) return;
  begun_ = true;
  status_ = status;
  head_ = Head(status, content_type, more, false, 0);
}

void Exchange::Write(std::string piece, Written written) {
  if (complete_ || gone_) {
    if (written) written(false);
    return;
  }
  if (std::exchange(tended_, false)) piece.insert(0, keep_.bytes);
  Send(std::exchange(head_, "") + Chunk(piece), std::move(written));
}

void Exchange::Tend() {
  tended_ = false;
  Write(keep_.bytes);
  tended_ = true;
}

void Exchange::End() {
  if (complete_) return;
  complete_ = true;
  on_gone_ = nullptr;
  on_tick_ = nullptr;
  if (!gone_) Ended(status_);
  if (!gone_) Send(std::exchange(head_, "") + (request.http10 || bodiless() ? "" : "0\r\n\r\n"), nullptr);
  wire_.done(request.keep_alive && !request.http10);
}

void Exchange::OnGone(std::function<void()> gone) {
  if (gone_) return gone();
  if (!complete_) on_gone_ = std::move(gone);
}

void Exchange::Gone() {
  if (gone_ || complete_) return;
  gone_ = true;
  Ended(499);
  on_tick_ = nullptr;
  if (std::function<void()> tell = std::exchange(on_gone_, nullptr)) tell();
}

void Exchange::Tick(Clock::time_point now) {
  if (complete_ || gone_ || writing_ > 0) return;
  if (on_tick_) on_tick_(now);
  if (keep_.every <= 0) return;
  if (SecondsBetween(last_, now) < (begun_ ? keep_.every : keep_.first)) return;
  if (!begun_) {
    Begin(200, keep_.content_type);
    kept_alive_ = true;
  }
  Tend();
}

void Exchange::Probe() {
  if (complete_ || gone_ || writing_ > 0) return;
  if (begun_) {
    if (!keep_.bytes.empty()) Tend();
  } else if (!request.http10) {
    Send("HTTP/1.1 102 Processing\r\n\r\n", nullptr);
  }
}

}  // namespace duo::http
