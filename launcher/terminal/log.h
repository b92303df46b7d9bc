// Log: one line an event to stderr, for people by default, as JSON for machines. Fields are few and flat. Events below
// the log's level have no line; the level may be changed at any time.
//
// Nobody waits for whoever reads the log: lines go to a thread that writes them. What it has not written yet is
// bounded; what comes beyond that is dropped, and a line says how many were, as soon as somebody reads again.
// Thread-safe: a line is one write, lines keep their order. Errors of stderr are ignored. The end waits a second at
// most for a reader.
#pragma once

#include <atomic>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace duo {

struct LogField {
  LogField(std::string_view key, std::string_view value) : key(key), value(value), text(true) {}
  LogField(std::string_view key, const char* value) : key(key), value(value), text(true) {}
  template <typename T>
  requires(std::integral<T> || std::floating_point<T>) LogField(std::string_view key, T number)
      : key(key), value(absl::StrCat(number)) {}

  std::string_view key;
  std::string value;
  bool text = false;  // quoted in JSON
};

enum class LogLevel { kDebug, kInfo, kWarning, kError };
const char* Name(LogLevel level);  // "debug", "info", "warning", "error"
std::optional<LogLevel> LogLevelNamed(std::string_view name);

class Log {
 public:
  static constexpr int64_t kMostWaiting = int64_t{1} << 20;  // bytes of lines that are not written yet

  // descriptor: where to write; it stays open until the end.
  explicit Log(bool json, int descriptor = 2, LogLevel level = LogLevel::kInfo);
  ~Log();

  void SetLevel(LogLevel level) { level_ = level; }
  bool Has(LogLevel level) const { return level >= level_; }  // whether its events have lines

  // event: a few words, the same for every event of the kind. Event: level info.
  using Fields = std::initializer_list<LogField>;
  void Debug(std::string_view event, Fields fields = {}) const { Add(LogLevel::kDebug, event, fields); }
  void Event(std::string_view event, Fields fields = {}) const { Add(LogLevel::kInfo, event, fields); }
  void Warn(std::string_view event, Fields fields = {}) const { Add(LogLevel::kWarning, event, fields); }
  void Error(std::string_view event, Fields fields = {}) const { Add(LogLevel::kError, event, fields); }
  // Level info, whatever the log's level is: the answer to what an operator has just asked for by a signal.
  void Answer(std::string_view event, Fields fields = {}) const { Write(LogLevel::kInfo, event, fields); }

 private:
  class Writer;
  void Add(LogLevel level, std::string_view event, Fields fields) const {
    if (Has(level)) Write(level, event, fields);
  }
  void Write(LogLevel level, std::string_view event, Fields fields) const;

  std::atomic<LogLevel> level_;
  bool json_;
  std::unique_ptr<Writer> writer_;
};

// `text` between double quotes, escaped as JSON demands; bytes that are not UTF-8 become U+FFFD.
std::string JsonString(std::string_view text);

}  // namespace duo
