#include "launcher/serve/ops/metrics_page.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "launcher/serve/ops/socket_ready.h"

namespace duo {
namespace {

constexpr size_t kLongestRequest = 8192;
constexpr std::chrono::seconds kPatience{5};  // for a connection, from accepting it to its last byte

// A request up to its empty line; what is there by the deadline, or too long, as it is.
std::string ReadRequest(int connection, Clock::time_point deadline) {
  std::string request;
  char buffer[1024];
  while (request.find("\r\n\r\n") == std::string::npos && request.size() < kLongestRequest) {
    if (!SocketReady(connection, POLLIN, deadline)) break;
    const ssize_t n = recv(connection, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) break;
    request.append(buffer, n);
  }
  return request;
}

void WriteAnswer(int connection, std::string_view answer, Clock::time_point deadline) {
  while (!answer.empty() && SocketReady(connection, POLLOUT, deadline)) {
    const ssize_t n = send(connection, answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return;
    answer.remove_prefix(n);
  }
}

std::string Response(const std::string& status, const std::string& type, const std::string& body) {
  return absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: ", type, "\r\nContent-Length: ", body.size(),
                      "\r\nConnection: close\r\n\r\n", body);
}

int PortOf(int socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsPage>> MetricsPage::Listen(const std::string& address,
                                                                 std::function<std::string()> render) {
  auto failed = [&](const std::string& why) {
    return absl::UnavailableError(absl::StrCat("--metrics ", address, ": cannot listen there: ", why));
  };
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return failed("expected HOST:PORT");
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints = {}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  const int error = getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found);
  if (error != 0) return failed(gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, freeaddrinfo);

  std::unique_ptr<MetricsPage> page(new MetricsPage());
  page->render_ = std::move(render);
  page->listener_ = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  page->wake_ = eventfd(0, EFD_CLOEXEC);
  const int on = 1;
  if (page->listener_ < 0 || page->wake_ < 0 ||
      setsockopt(page->listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(page->listener_, found->ai_addr, found->ai_addrlen) != 0 || listen(page->listener_, 16) != 0) {
    return failed(std::strerror(errno));
  }
  page->port_ = PortOf(page->listener_);
  page->thread_ = std::thread([p = page.get()] { p->Run(); });
  return page;
}

MetricsPage::~MetricsPage() {
  if (thread_.joinable()) {
    eventfd_write(wake_, 1);
    thread_.join();
  }
  if (listener_ >= 0) close(listener_);
  if (wake_ >= 0) close(wake_);
}

void MetricsPage::Run() {
  while (true) {
    pollfd waiting[2] = {{listener_, POLLIN, 0}, {wake_, POLLIN, 0}};
    if (poll(waiting, 2, -1) < 0) continue;  // EINTR
    if (waiting[1].revents != 0) return;
    const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) continue;  // the client is gone already
    Answer(connection);
    close(connection);
  }
}

void MetricsPage::Answer(int connection) {
  const Clock::time_point deadline = Clock::now() + kPatience;
  const std::string request = ReadRequest(connection, deadline);
  const std::string_view line = std::string_view(request).substr(0, request.find("\r\n"));
  if (line.substr(0, 4) != "GET ") {
    return WriteAnswer(connection, Response("405 Method Not Allowed", "text/plain", "only GET\n"), deadline);
  }
  const std::string_view path = line.substr(4, line.find_first_of(" ?", 4) - 4);
  if (path != "/metrics") {
    return WriteAnswer(connection, Response("404 Not Found", "text/plain", "metrics are at /metrics\n"), deadline);
  }
  WriteAnswer(connection, Response("200 OK", "text/plain; version=0.0.4; charset=utf-8", render_()), deadline);
}

}  // namespace duo
