// Test driver: the Jinja engine as a filter, so that a script can compare it with another implementation.
// stdin: JSON objects, one a line. {"template": TEXT} sets the template and is answered with {"ok": true};
// {"given": {..}, "own": {..}} renders it with those variables and is answered with {"text": TEXT, "given": [[begin,
// end],
// ..]}, the byte ranges of what was given. What is refused is answered with {"error": TEXT}. The time is always
// 2024-07-26 08:05:03.
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "runtime/text/jinja/template.h"

namespace {

std::string FixedTime(const std::string& format) {
  std::tm time{};
  time.tm_year = 124;
  time.tm_mon = 6;
  time.tm_mday = 26;
  time.tm_hour = 8;
  time.tm_min = 5;
  time.tm_sec = 3;
  time.tm_wday = 5;
  time.tm_yday = 207;
  std::string text(format.size() * 8 + 64, '\0');
  text.resize(std::strftime(text.data(), text.size(), format.c_str(), &time));
  return text;
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  std::optional<duo::jinja::Template> current;
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto request = nlohmann::ordered_json::parse(line);
    nlohmann::ordered_json answer;
    if (request.contains("template")) {
      const auto parsed = duo::jinja::Template::Parse(request["template"].get<std::string>(), "template");
      current = parsed.ok() ? std::optional(*parsed) : std::nullopt;
      answer = parsed.ok() ? nlohmann::ordered_json{{"ok", true}}
                           : nlohmann::ordered_json{{"error", std::string(parsed.status().message())}};
    } else if (!current.has_value()) {
      answer["error"] = "no template";
    } else {
      duo::jinja::Inputs inputs;
      inputs.given = request["given"];
      if (request.contains("own")) {
        for (const auto& [name, text] : request["own"].items()) inputs.own.emplace_back(name, text.get<std::string>());
      }
      inputs.clock = FixedTime;
      const auto pieces = current->Render(inputs);
      if (!pieces.ok()) {
        answer["error"] = std::string(pieces.status().message());
      } else {
        std::string text;
        answer["text"] = "";
        answer["given"] = nlohmann::ordered_json::array();
        for (const duo::jinja::Piece& piece : *pieces) {
          if (piece.given) answer["given"].push_back({text.size(), text.size() + piece.text.size()});
          text += piece.text;
        }
        answer["text"] = text;
      }
    }
    std::cout << answer.dump() << "\n";
  }
  return std::cout.flush() ? 0 : 1;
}
