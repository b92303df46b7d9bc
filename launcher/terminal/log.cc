#include "launcher/terminal/log.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace duo {
namespace {

// Length of the well-formed UTF-8 character at the beginning of `text`; 0 when there is none.
size_t CharacterLength(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 && first < 0xf5 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 0;
  if (length == 0 || first >= 0xf5 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) >= 0xa0) || (first == 0xf0 && byte(1) < 0x90) ||
      (first == 0xf4 && byte(1) >= 0x90)) {
    return 0;
  }
  return length;
}

// A line of the log.
std::string Line(bool json, LogLevel level, std::string_view event, Log::Fields fields) {
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  std::string line;
  if (json) {
    line = absl::StrCat("{\"time\":\"", time, "\",\"level\":\"", Name(level), "\",\"event\":", JsonString(event));
    for (const LogField& f : fields) line += "," + JsonString(f.key) + ":" + (f.text ? JsonString(f.value) : f.value);
    return line + "}\n";
  }
  line = absl::StrCat(time, " ", level == LogLevel::kInfo ? "" : absl::StrCat(Name(level), ": "), std::string(event));
  for (const LogField& f : fields) line += "  " + std::string(f.key) + "=" + (f.text ? JsonString(f.value) : f.value);
  return line + "\n";
}

}  // namespace

const char* Name(LogLevel level) {
  constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  return kNames[static_cast<int>(level)];
}

std::optional<LogLevel> LogLevelNamed(std::string_view name) {
  for (LogLevel level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (name == Name(level)) return level;
  }
  return std::nullopt;
}

std::string JsonString(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    const unsigned char c = text[0];
    if (length == 0) {
      out += "\\ufffd";
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += text[0];
    } else if (c < 0x20) {
      absl::StrAppendFormat(&out, "\\u%04x", c);
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out + "\"";
}

// The thread that writes lines, and those that wait for it.
class Log::Writer {
 public:
  Writer(bool json, int descriptor) : json_(json), descriptor_(descriptor) {
    // Signals are for others; a pipe that nobody reads any more is an error of write.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { Run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~Writer() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      until_ = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    }
    wake_.notify_one();
    thread_.join();
  }
  void Add(std::string line) {
    std::lock_guard lock(mutex_);
    const auto bytes = static_cast<int64_t>(line.size());
    if (dropped_ > 0 || waiting_ + bytes > kMostWaiting) {  // once one is missing, those after it are too
      ++dropped_;
      return;
    }
    waiting_ += bytes;
    lines_.push_back(std::move(line));
    wake_.notify_one();
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stop_ || !lines_.empty(); });
      if (lines_.empty()) return;
      std::string line = std::move(lines_.front());
      lines_.pop_front();
      waiting_ -= static_cast<int64_t>(line.size());
      // Where the gap is: behind all that came before it.
      const int64_t dropped = lines_.empty() ? std::exchange(dropped_, 0) : 0;
      if (dropped > 0)
        line += Line(json_, LogLevel::kWarning, "log lines dropped because nobody read them", {{"lines", dropped}});
      lock.unlock();
      if (!Write(line)) return;
      lock.lock();
    }
  }
  // False: the end has come and nobody reads.
  bool Write(std::string_view line) {
    constexpr size_t kPiece = 4096;  // what a pipe that says it has room takes without a wait
    constexpr int kLookMilliseconds = 50;
    while (!line.empty()) {
      pollfd ready = {descriptor_, POLLOUT, 0};
      if (poll(&ready, 1, kLookMilliseconds) <= 0) {
        std::lock_guard lock(mutex_);
        if (stop_ && std::chrono::steady_clock::now() > until_) return false;
        continue;
      }
      const ssize_t n = write(descriptor_, line.data(), std::min(line.size(), kPiece));
      if (n <= 0) return true;  // there is nowhere to say it
      line.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

  const bool json_;
  const int descriptor_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<std::string> lines_;
  int64_t waiting_ = 0, dropped_ = 0;
  bool stop_ = false;
  std::chrono::steady_clock::time_point until_;
  std::thread thread_;
};

Log::Log(bool json, int descriptor, LogLevel level)
    : level_(level), json_(json), writer_(std::make_unique<Writer>(json, descriptor)) {}
Log::~Log() = default;

void Log::Write(LogLevel level, std::string_view event, Fields fields) const {
  writer_->Add(Line(json_, level, event, fields));
}

}  // namespace duo
