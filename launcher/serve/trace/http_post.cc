#include "launcher/serve/trace/http_post.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "launcher/serve/ops/socket_ready.h"

namespace duo {
namespace {

constexpr std::string_view kScheme = "http://";
constexpr char kOtlpPort[] = "4318";
constexpr size_t kLongestHead = 8192;

// Closes what it holds.
struct Socket {
  int fd = -1;
  ~Socket() {
    if (fd >= 0) close(fd);
  }
};

absl::Status Connect(const HttpTarget& target, Clock::time_point deadline, Socket* socket) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int failed = getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &found); failed != 0) {
    return absl::UnavailableError(gai_strerror(failed));
  }
  int error = ECONNREFUSED;
  for (const addrinfo* one = found; one != nullptr && socket->fd < 0; one = one->ai_next) {
    Socket made{::socket(one->ai_family, one->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, one->ai_protocol)};
    if (made.fd < 0) continue;
    if (connect(made.fd, one->ai_addr, one->ai_addrlen) != 0 && errno != EINPROGRESS) {
      error = errno;
      continue;
    }
    if (!SocketReady(made.fd, POLLOUT, deadline)) {
      error = ETIMEDOUT;
      continue;
    }
    socklen_t length = sizeof error;
    getsockopt(made.fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error == 0) std::swap(socket->fd, made.fd);
  }
  freeaddrinfo(found);
  return socket->fd >= 0 ? absl::OkStatus() : absl::UnavailableError(std::strerror(error));
}

absl::Status Write(int fd, std::string_view text, Clock::time_point deadline) {
  while (!text.empty()) {
    if (!SocketReady(fd, POLLOUT, deadline)) return absl::UnavailableError("it took no more in time");
    const ssize_t n = send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return absl::UnavailableError(std::strerror(errno));
    text.remove_prefix(n);
  }
  return absl::OkStatus();
}

// The number of "HTTP/1.1 NUMBER ..", which is all that counts.
absl::StatusOr<int> ReadStatus(int fd, Clock::time_point deadline) {
  std::string head;
  char buffer[1024];
  while (head.find("\r\n") == std::string::npos && head.size() < kLongestHead) {
    if (!SocketReady(fd, POLLIN, deadline)) return absl::UnavailableError("it gave no answer in time");
    const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return absl::UnavailableError("it ended the connection without an answer");
    head.append(buffer, n);
  }
  int status = 0;
  const size_t space = head.find(' ');
  if (head.substr(0, 5) != "HTTP/" || space == std::string::npos ||
      !absl::SimpleAtoi(head.substr(space + 1, 3), &status)) {
    return absl::UnavailableError("what answers there is no HTTP server");
  }
  return status;
}

}  // namespace

absl::StatusOr<HttpTarget> ParseHttpTarget(const std::string& url, const std::string& path) {
  const auto refused = [&url] {
    return absl::InvalidArgumentError(absl::StrCat("expected http://HOST[:PORT][/PATH], found ", url));
  };
  if (url.compare(0, kScheme.size(), kScheme) != 0) return refused();
  std::string_view rest = std::string_view(url).substr(kScheme.size());
  if (rest.find_first_of(" \t\r\n@?#") != std::string_view::npos) return refused();
  const size_t slash = std::min(rest.find('/'), rest.size());
  HttpTarget target;
  target.path = rest.size() - slash > 1 ? std::string(rest.substr(slash)) : path;
  std::string_view address = rest.substr(0, slash);
  if (!address.empty() && address.front() == '[') {  // of IPv6
    const size_t end = address.find(']');
    if (end == std::string_view::npos) return refused();
    target.host = std::string(address.substr(1, end - 1));
    address.remove_prefix(end + 1);
  } else {
    const size_t colon = std::min(address.find(':'), address.size());
    target.host = std::string(address.substr(0, colon));
    address.remove_prefix(colon);
  }
  target.port = address.empty() ? kOtlpPort : std::string(address.substr(1));
  int port = 0;
  const bool is_port = absl::SimpleAtoi(target.port, &port) && port > 0 && port < 65536;
  if (target.host.empty() || !is_port || (!address.empty() && address.front() != ':')) return refused();
  return target;
}

absl::StatusOr<int> PostJson(const HttpTarget& target, const std::string& body, double seconds) {
  const Clock::time_point deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  Socket socket;
  if (absl::Status s = Connect(target, deadline, &socket); !s.ok()) return s;
  const bool v6 = target.host.find(':') != std::string::npos;
  const std::string head = absl::StrCat(
      "POST ", target.path, " HTTP/1.1\r\nHost: ", v6 ? "[" : "", target.host, v6 ? "]" : "", ":", target.port,
      "\r\nContent-Type: application/json\r\nContent-Length: ", body.size(), "\r\nConnection: close\r\n\r\n");
  if (absl::Status s = Write(socket.fd, head, deadline); !s.ok()) return s;
  if (absl::Status s = Write(socket.fd, body, deadline); !s.ok()) return s;
  return ReadStatus(socket.fd, deadline);
}

}  // namespace duo
