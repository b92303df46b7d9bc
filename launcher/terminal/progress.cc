#include "launcher/terminal/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"

namespace duo {
namespace {

constexpr double kQuietSeconds = 2;     // shorter work shows nothing
constexpr double kRedrawSeconds = 0.1;  // of the bar
constexpr double kLineSeconds = 5;      // between plain lines

// Of the terminal that stderr is; a line that is longer would wrap and could not be wiped.
size_t Columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// An estimate deserves no decimals.
std::string Estimate(double seconds) { return seconds < 60 ? absl::StrFormat("%.0f s", seconds) : Duration(seconds); }

}  // namespace

std::string Grouped(int64_t n) {
  std::string digits = std::to_string(n);
  for (int at = static_cast<int>(digits.size()) - 3; at > (n < 0 ? 1 : 0); at -= 3) digits.insert(at, ",");
  return digits;
}

std::string Duration(double seconds) {
  if (seconds < 60) return absl::StrFormat("%.*f s", seconds < 10 ? 2 : 1, seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return absl::StrFormat("%d min %d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %d min", whole / 3600, whole % 3600 / 60);
}

std::string DraftsText(int64_t draw_steps, int64_t drafted, int64_t accepted) {
  if (drafted == 0 || draw_steps == 0) return "";
  return absl::StrFormat(", %.2f tokens a step (%d of %d drafts were right)",
                         1 + static_cast<double>(accepted) / static_cast<double>(draw_steps), accepted, drafted);
}

std::string ByteCount(double bytes) {
  if (bytes >= 1e9) return absl::StrFormat("%.2f GB", bytes / 1e9);
  if (bytes >= 1e6) return absl::StrFormat("%.1f MB", bytes / 1e6);
  return absl::StrFormat("%.1f kB", bytes / 1e3);
}

Progress::Progress(std::string what, std::string unit, bool quiet)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      last_(start_) {}

Progress::~Progress() { Done(); }

void Progress::Update(int64_t done, int64_t total) {
  const double elapsed = SecondsSince(start_);
  left_.Seen(done, elapsed);
  if (quiet_ || finished_ || elapsed < kQuietSeconds || done >= total) return;
  if (drawn_ && SecondsSince(last_) < (terminal_ ? kRedrawSeconds : kLineSeconds)) return;
  last_ = Clock::now();
  drawn_ = true;
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
  const double rate = static_cast<double>(done) / elapsed;
  const double seconds_left = left_.Until(total);
  const std::string left = seconds_left < 0 ? "?" : Estimate(seconds_left);
  const bool bytes = unit_ == "B";
  const std::string amount = bytes
                                 ? ByteCount(static_cast<double>(done)) + " of " + ByteCount(static_cast<double>(total))
                                 : Grouped(done) + " of " + Grouped(total) + " " + unit_;
  const std::string speed = bytes       ? ByteCount(rate) + "/s"
                            : rate < 10 ? absl::StrFormat("%.2f %s/s", rate, unit_)
                                        : Grouped(static_cast<int64_t>(rate)) + " " + unit_ + "/s";
  const std::string note = note_.empty() ? "" : "; " + note_;
  if (terminal_) {
    constexpr int kWidth = 20;
    const int full = static_cast<int>(share * kWidth);
    const std::string line = absl::StrFormat("%s [%s%s] %3.0f%%, %s left%s  %s, %s", what_, std::string(full, '#'),
                                             std::string(kWidth - full, '.'), 100 * share, left, note, amount, speed);
    std::fprintf(stderr, "\r\033[K%s", line.substr(0, Columns() - 1).c_str());
  } else {
    std::fprintf(stderr, "%s %.0f%%: %s, %s, %s left%s\n", what_.c_str(), 100 * share, amount.c_str(), speed.c_str(),
                 left.c_str(), note.c_str());
  }
  std::fflush(stderr);
}

void Progress::Done() {
  if (drawn_ && terminal_ && !finished_) {
    std::fprintf(stderr, "\r\033[K");
    std::fflush(stderr);
  }
  finished_ = true;
}

}  // namespace duo
