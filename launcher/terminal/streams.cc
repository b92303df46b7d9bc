#include "launcher/terminal/streams.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"

namespace duo {

void OpenClosedStreams() {
  // In ascending order: open takes the lowest number that is free.
  const char* const files[] = {"/dev/null", "/dev/full", "/dev/null"};
  for (int stream = 0; stream < 3; ++stream) {
    if (fcntl(stream, F_GETFD) < 0 && errno == EBADF) (void)open(files[stream], stream == 0 ? O_RDONLY : O_WRONLY);
  }
}

void LetOutputPass() {
  std::cout.flush();
  std::fflush(stdout);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

absl::Status FlushOutput() {
  std::cout.flush();
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0;
  const int why = errno;
  if (flushed && std::ferror(stdout) == 0 && std::cout.good()) return absl::OkStatus();
  pollfd pipe{STDOUT_FILENO, POLLOUT, 0};
  if (why == EPIPE || (poll(&pipe, 1, 0) > 0 && (pipe.revents & POLLERR) != 0)) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("stdout: writing to it failed", why == 0 ? "" : absl::StrCat(" (", std::strerror(why), ")")));
}

}  // namespace duo
