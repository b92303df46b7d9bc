// Log: one line an event to stderr, for people by default, as JSON for machines. Fields are few and flat.
// Thread-safe: a line is one write. Errors of stderr are ignored.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
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

class Log {
 public:
  explicit Log(bool json) : json_(json) {}
  // event: a few words, the same for every event of the kind.
  void Event(std::string_view event, std::initializer_list<LogField> fields = {}) const;

 private:
  bool json_;
};

// `text` between double quotes, escaped as JSON demands; bytes that are not UTF-8 become U+FFFD.
std::string JsonString(std::string_view text);

}  // namespace duo
