#include "launcher/serve/http/wire/router.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace duo::http {
namespace {

bool Matches(const std::string& pattern, const std::vector<std::string>& path) {
  const std::vector<std::string> parts = absl::StrSplit(absl::string_view(pattern).substr(1), '/');
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i >= path.size()) return false;
    if (parts[i] == "**") return !path[i].empty();
    if (parts[i] == "*" ? path[i].empty() : parts[i] != path[i]) return false;
  }
  return parts.size() == path.size();
}

}  // namespace

std::variant<const Route*, Refusal> Router::Find(const Request& request, std::string* allow) const {
  for (const Route& route : routes_) {
    if (!Matches(route.pattern, request.path)) continue;
    if (route.method == request.method || (route.method == "GET" && request.method == "HEAD")) return &route;
    absl::StrAppend(allow, allow->empty() ? "" : ", ", route.method, route.method == "GET" ? ", HEAD" : "");
  }
  if (allow->empty()) return Refusal{404, "there is nothing at this path", "not_found"};
  return Refusal{405, absl::StrCat("this path has ", *allow), "method_not_allowed"};
}

}  // namespace duo::http
