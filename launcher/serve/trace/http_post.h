// One POST over HTTP/1.1 without TLS, to a collector on this host or in its network. Blocks; any thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace duo {

// Of "http://HOST[:PORT][/PATH]".
struct HttpTarget {
  std::string host, port, path;
};
// Without a path it is `path`, without a port 4318, which is OTLP/HTTP's. INVALID_ARGUMENT with a sentence that says
// what was expected.
absl::StatusOr<HttpTarget> ParseHttpTarget(const std::string& url, const std::string& path);

// The status of the answer, whatever it is. UNAVAILABLE: there was none within `seconds`.
absl::StatusOr<int> PostJson(const HttpTarget& target, const std::string& body, double seconds);

}  // namespace duo
