#include "launcher/serve/http/wire/gate.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "launcher/serve/ops/auth.h"

namespace duo::http {
namespace {

absl::string_view WithoutPort(absl::string_view authority) {
  if (absl::StartsWith(authority, "[")) return authority.substr(0, std::min(authority.find(']') + 1, authority.size()));
  return authority.substr(0, authority.find(':'));
}

// A page of this server itself: its origin's host and port are those that were asked.
bool SameOrigin(const Request& request) {
  const size_t scheme = request.origin.find("://");
  return scheme != std::string::npos &&
         absl::EqualsIgnoreCase(absl::string_view(request.origin).substr(scheme + 3), request.authority);
}

}  // namespace

std::string AllowedOrigin(const GateRules& rules, const Request& request) {
  if (request.origin.empty()) return "";
  for (const std::string& origin : rules.origins) {
    if (origin == "*") return "*";
    if (absl::EqualsIgnoreCase(origin, request.origin)) return origin;
  }
  return "";
}

std::optional<Refusal> CheckSender(const GateRules& rules, const Header& header, const Request& request) {
  if (rules.loopback && !request.authority.empty()) {
    const absl::string_view host = WithoutPort(request.authority);
    if (!IsLoopback(absl::StrCat(host, ":0")) && !absl::EqualsIgnoreCase(host, rules.host)) {
      return Refusal{403, "Host is not this machine's: the server listens on loopback only", "forbidden_host"};
    }
  }
  if (!AllowedOrigin(rules, request).empty()) return std::nullopt;
  if (!request.origin.empty() && !SameOrigin(request)) {
    return Refusal{403, "pages of this Origin may not call the server; --cors-origin allows one", "forbidden_origin"};
  }
  if (absl::EqualsIgnoreCase(header.Find("sec-fetch-site"), "cross-site")) {
    return Refusal{403, "pages of other sites may not call the server; --cors-origin allows one", "forbidden_origin"};
  }
  return std::nullopt;
}

std::optional<Refusal> CheckContentType(const Request& request, bool uploads) {
  if (uploads) {
    if (request.content_type == "text/plain" || request.content_type == "application/octet-stream") return std::nullopt;
    if (request.content_type.empty()) return std::nullopt;  // curl -T sends none; a page of the web must ask for PUT
    return Refusal{415, "an upload's Content-Type is text/plain or application/octet-stream", "unsupported_media_type"};
  }
  if (request.content_type == "application/json") return std::nullopt;
  if (request.content_type.empty() && !request.has_body()) return std::nullopt;
  return Refusal{415, "the Content-Type of a body must be application/json", "unsupported_media_type"};
}

}  // namespace duo::http
