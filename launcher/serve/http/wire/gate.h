// The gate: which requests may come in at all, judged by their header, before a byte of the body is kept. It keeps away
// pages of the web that a browser on this machine shows (Host on loopback, Origin, Sec-Fetch-Site, content types that a
// form cannot send). Pure functions of plain values; any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "launcher/serve/http/wire/request.h"

namespace duo::http {

struct GateRules {
  bool loopback = true;              // listens on loopback: Host must name it, so that no foreign name points here
  std::string host;                  // that it listens on, without the port
  std::vector<std::string> origins;  // whose pages may call, "*": all; empty: none but its own
};

// Is it one that the request's Origin may read answers of? Empty: not; else the value of the answer's header.
std::string AllowedOrigin(const GateRules& rules, const Request& request);

std::optional<Refusal> CheckSender(const GateRules& rules, const Header& header, const Request& request);

// uploads: the route takes raw text, too.
std::optional<Refusal> CheckContentType(const Request& request, bool uploads);

}  // namespace duo::http
