#include "launcher/terminal/checks.h"

#include <string>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace duo {
namespace {

CLI::Validator Check(const char* expected, bool (*holds)(const std::string&)) {
  const auto refusal = [expected, holds](std::string& found) {
    return holds(found) ? "" : absl::StrCat("expected ", expected, ", found ", found.empty() ? "nothing" : found);
  };
  return CLI::Validator(refusal, "");  // no description: it would stand in the help behind the type's name
}

}  // namespace

CLI::Validator AboveZero() {
  return Check("a number above 0", [](const std::string& found) {
    double number = 0;
    return absl::SimpleAtod(found, &number) && number > 0;
  });
}

CLI::Validator ZeroOrMore() {
  return Check("a number of at least 0", [](const std::string& found) {
    double number = 0;
    return absl::SimpleAtod(found, &number) && number >= 0;
  });
}

CLI::Validator Address() {
  return Check("HOST:PORT with a port of at most 65535, [V6]:PORT or unix:PATH", [](const std::string& found) {
    if (absl::StartsWith(found, "unix:")) return found.size() > 5;
    const size_t colon = found.rfind(':');
    if (colon == std::string::npos || colon == 0) return false;
    const std::string host = found.substr(0, colon);
    const bool v6 = host.front() == '[' && host.back() == ']' && host.size() > 2;
    int port = 0;
    return (v6 || host.find(':') == std::string::npos) && absl::SimpleAtoi(found.substr(colon + 1), &port) &&
           port >= 0 && port <= 65535;
  });
}

}  // namespace duo
