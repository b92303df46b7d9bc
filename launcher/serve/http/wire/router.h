// Router: which handler a path has. Patterns are cut at slashes; "*" stands for one segment, "**" at the end for one or
// more. Immutable after it is filled; any thread.
#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "launcher/serve/http/wire/exchange.h"

namespace duo::http {

using Handler = std::function<void(const ExchangePtr&)>;

struct Route {
  std::string method, pattern;  // "GET", "/v1/models"; GET answers HEAD too
  Handler handler;
  bool open = false;    // needs no token
  bool upload = false;  // takes raw text and reads its body itself
};

class Router {
 public:
  void Add(Route route) { routes_.push_back(std::move(route)); }
  // 404, or 405 with the methods that the path has (allow).
  std::variant<const Route*, Refusal> Find(const Request& request, std::string* allow) const;

 private:
  std::vector<Route> routes_;
};

}  // namespace duo::http
