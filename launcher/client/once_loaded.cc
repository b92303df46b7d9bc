#include "launcher/client/once_loaded.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include "absl/strings/match.h"

namespace duo {

bool IsLoading(const absl::Status& status) {
  return absl::IsUnavailable(status) && absl::StartsWith(status.message(), "the model is loading");
}

absl::Status OnceLoaded(const std::function<absl::Status()>& call) {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  std::string shown;
  absl::Status status = call();
  while (IsLoading(status)) {
    const std::string text(status.message().substr(0, status.message().find(';')));
    if (text != shown) std::fprintf(stderr, terminal ? "\r\033[K%s" : "%s\n", text.c_str());
    shown = text;
    std::this_thread::sleep_for(std::chrono::seconds(1));
    status = call();
  }
  if (terminal && !shown.empty()) std::fprintf(stderr, "\r\033[K");
  return status;
}

}  // namespace duo
