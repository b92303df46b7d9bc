#include "launcher/terminal/checks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace duo {
namespace {

CLI::Validator Check(const char* expected, bool (*holds)(const std::string&)) {
  const auto refusal = [expected, holds](std::string& found) {
    return holds(found) ? "" : absl::StrCat("expected ", expected, ", found ", found.empty() ? "nothing" : found);
  };
  return CLI::Validator(refusal, "");  // no description: it would stand in the help behind the type's name
}

struct Unit {
  const char* name;  // in small letters
  double factor;
};

std::vector<Unit> SizeUnits() {
  std::vector<Unit> units = {{"", 1}, {"b", 1}};
  double thousands = 1, binary = 1;
  for (const auto& [k, kb, ki, kib] : std::vector<std::array<const char*, 4>>{{"k", "kb", "ki", "kib"},
                                                                              {"m", "mb", "mi", "mib"},
                                                                              {"g", "gb", "gi", "gib"},
                                                                              {"t", "tb", "ti", "tib"},
                                                                              {"p", "pb", "pi", "pib"},
                                                                              {"e", "eb", "ei", "eib"}}) {
    thousands *= 1000;
    binary *= 1024;
    units.insert(units.end(), {{k, thousands}, {kb, thousands}, {ki, binary}, {kib, binary}});
  }
  return units;
}

// example: "50GB"; of: "bytes".
CLI::Validator Amount(std::vector<Unit> units, const std::string& example, const std::string& of, bool zero_too) {
  const auto convert = [units = std::move(units), example, of, zero_too](std::string& word) -> std::string {
    const auto refused = [&](const std::string& wanted, const std::string& found) {
      return absl::StrCat("expected ", wanted, ", found ", found.empty() ? "nothing" : found);
    };
    const size_t digits = std::min(word.find_first_not_of("+-.0123456789"), word.size());
    const std::string typed(absl::StripAsciiWhitespace(word.substr(digits))), unit = absl::AsciiStrToLower(typed);
    const auto known = std::find_if(units.begin(), units.end(), [&](const Unit& u) { return unit == u.name; });
    double number = 0;
    if (!absl::SimpleAtod(word.substr(0, digits), &number)) return refused("a number and a unit, as " + example, word);
    if (known == units.end()) return refused("a number and a unit, as " + example, "the unit " + typed);
    const double amount = number * known->factor, whole = std::round(amount);
    if (zero_too && !(amount >= 0)) return refused("a number of at least 0", word);
    if (!zero_too && !(amount > 0)) return refused("a number above 0", word);
    if (amount > 9e18) return refused("at most 9e18 " + of, word);
    if (std::abs(amount - whole) > 1e-9 * amount) return refused("a whole number of " + of, word);
    word = absl::StrCat(static_cast<int64_t>(whole));
    return "";
  };
  return CLI::Validator(convert, "");
}

bool IsHostAndPort(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return false;
  const std::string_view host = text.substr(0, colon);
  const bool v6 = host.front() == '[' && host.back() == ']' && host.size() > 2;
  const std::string port_text(text.substr(colon + 1));
  int port = 0;
  return (v6 || host.find(':') == std::string_view::npos) && absl::SimpleAtoi(port_text, &port) && port >= 0 &&
         port <= 65535;
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

CLI::Validator SizeWithUnit() { return Amount(SizeUnits(), "50GB", "bytes", false); }

CLI::Validator TokensWithUnit(bool zero_too) {
  return Amount({{"", 1}, {"k", 1e3}, {"m", 1e6}}, "100K", "tokens", zero_too);
}

CLI::Validator Address() {
  return Check("HOST:PORT with a port of at most 65535, [V6]:PORT or unix:PATH", [](const std::string& found) {
    return absl::StartsWith(found, "unix:") ? found.size() > 5 : IsHostAndPort(found);
  });
}

void RefuseNoNumbers(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands()) RefuseNoNumbers(*command);
  const std::string_view words[] = {"TEXT", "FILE", "DIR", "HOST:PORT", "ID", "NAME=VALUE", "TOKEN"};
  for (const CLI::Option* option : app.get_options()) {
    if (std::find(std::begin(words), std::end(words), option->get_type_name()) != std::end(words)) continue;
    for (const std::string& value : option->results()) {
      uint64_t whole = 0;  // CLI11 takes -1 and what is too large for some other number
      if (option->get_type_name().starts_with("UINT") && !absl::SimpleAtoi(value, &whole)) {
        throw CLI::ValidationError(option->get_name(),
                                   absl::StrCat("expected a whole number from 0 to 2^64 - 1, found ", value));
      }
      for (const std::string& part : std::vector<std::string>(absl::StrSplit(value, absl::ByAnyChar(",=/")))) {
        double number = 0;
        if (!absl::SimpleAtod(part, &number) || std::isfinite(number)) continue;
        throw CLI::ValidationError(option->get_name(), absl::StrCat("expected a number, found ", value));
      }
    }
  }
}

void RefuseEmptyParts(const CLI::App& app, const std::vector<std::string>& words) {
  const CLI::App* command = &app;  // that the words name
  for (const std::string& word : words) {
    for (const CLI::App* one : command->get_subcommands([](const CLI::App*) { return true; })) {
      if (one->get_name() != word) continue;
      command = one;
      break;
    }
  }
  for (const CLI::Option* option : command->get_options()) {
    if (option->get_delimiter() == '\0') continue;
    for (size_t i = 0; i < words.size(); ++i) {
      std::optional<std::string> list;
      for (const std::string& name : option->get_lnames()) {
        const std::string flag = absl::StrCat("--", name);
        if (words[i] == flag && i + 1 < words.size()) list = words[i + 1];
        if (words[i].starts_with(flag + "=")) list = words[i].substr(flag.size() + 1);
      }
      if (!list.has_value()) continue;
      const std::vector<std::string> parts = absl::StrSplit(*list, option->get_delimiter());
      if (std::find(parts.begin(), parts.end(), "") == parts.end()) continue;
      throw CLI::ValidationError(
          option->get_name(), parts.size() == 1 ? "expected a value, or several with commas between, found none"
                                                : absl::StrCat("expected a value beside every comma, found ", *list));
    }
  }
}

CLI::Validator HttpAddress() {
  return Check("HOST:PORT with a port of at most 65535, [V6]:PORT or none",
               [](const std::string& found) { return found == "none" || IsHostAndPort(found); });
}

}  // namespace duo
