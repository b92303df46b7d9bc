#include "launcher/load/cut_connection.h"

#include <fcntl.h>
#include <grpcpp/create_channel_posix.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace duo {
namespace {

// A connected socket, or -1 with errno or a resolver's reason in `why`.
int ConnectedSocket(const std::string& host, const std::string& port, std::string* why) {
  addrinfo stream = {}, *all = nullptr;
  stream.ai_socktype = SOCK_STREAM;
  if (const int failed = getaddrinfo(host.c_str(), port.c_str(), &stream, &all); failed != 0) {
    *why = gai_strerror(failed);
    return -1;
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(all, freeaddrinfo);
  for (const addrinfo* one = all; one != nullptr; one = one->ai_next) {
    const int fd = socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, one->ai_addr, one->ai_addrlen) == 0) return fd;
    *why = std::strerror(errno);
    if (fd >= 0) close(fd);
  }
  return -1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CutConnection>> CutConnection::Open(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return absl::InvalidArgumentError(address + ": expected HOST:PORT");
  std::string host = address.substr(0, colon), why;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const int fd = ConnectedSocket(host, address.substr(colon + 1), &why);
  const int own = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {  // gRPC wants it so
    if (fd >= 0) why = std::strerror(errno);
    for (const int opened : {fd, own}) {
      if (opened >= 0) close(opened);
    }
    return absl::UnavailableError(absl::StrCat(address, ": ", why));
  }
  return std::unique_ptr<CutConnection>(new CutConnection(own, grpc::CreateInsecureChannelFromFd(address, fd)));
}

CutConnection::CutConnection(int own, std::shared_ptr<grpc::Channel> channel)
    : own_(own), channel_(std::move(channel)) {}

CutConnection::~CutConnection() { close(own_); }

void CutConnection::Cut() { shutdown(own_, SHUT_RDWR); }

}  // namespace duo
