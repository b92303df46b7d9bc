// What a client asked for: the header as it came, and what it says once it has been looked at. Plain values and pure
// functions, without sockets; any thread. A Refusal is an answer to a request that goes no further: an HTTP code with a
// sentence.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

namespace duo::http {

struct Refusal {
  int status = 400;
  std::string message;
  std::string code = {};  // of the error object; empty: by the status
};

// A request's first lines, as the parser has them.
struct Header {
  std::string method, target;
  int version = 11;                                         // 10 or 11
  std::vector<std::pair<std::string, std::string>> fields;  // names in lower case

  int Count(absl::string_view name) const;
  absl::string_view Find(absl::string_view name) const;  // the first; empty where there is none
};

struct Request {
  std::string method;
  std::vector<std::string> path;             // decoded once, cut at the slashes that were there before
  std::map<std::string, std::string> query;  // decoded; the last of a name counts
  std::string authority;                     // Host, in lower case
  std::string authorization, content_type, content_range, origin, request_id;
  std::string traceparent;  // W3C's, where it is well formed
  bool http10 = false, keep_alive = true, expects_continue = false;
  bool chunked = false;
  std::optional<int64_t> content_length;
  std::string body;  // when it is there

  bool has_body() const { return chunked || content_length.value_or(0) > 0; }
};

// Refuses what can be read in two ways: two lengths, a length beside Transfer-Encoding, no Host or two, targets that
// are no path, escapes that are none.
std::variant<Request, Refusal> ReadHeader(const Header& header);

// Percent escapes to bytes; nothing where one is not two hexadecimal digits.
std::optional<std::string> Decoded(absl::string_view text);

}  // namespace duo::http
