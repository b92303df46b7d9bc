#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "launcher/terminal/settings.h"

namespace duo {
namespace {

// Takes one value from the beginning of `text`: "with \" escapes", 'as it is', or bare, up to one of `ends`. Nothing
// where a quote is not closed.
bool TakeValue(absl::string_view& text, absl::string_view ends, std::string& value) {
  value.clear();
  const char quote = text.empty() ? '\0' : text.front();
  if (quote != '"' && quote != '\'') {
    const size_t end = std::min(text.find_first_of(ends), text.size());
    value = std::string(absl::StripAsciiWhitespace(text.substr(0, end)));
    text.remove_prefix(end);
    return true;
  }
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == quote) {
      text.remove_prefix(i + 1);
      return true;
    }
    if (quote == '"' && text[i] == '\\' && i + 1 < text.size()) ++i;
    value += text[i];
  }
  return false;
}

absl::string_view Trimmed(absl::string_view text) { return absl::StripLeadingAsciiWhitespace(text); }

// What stands behind the equals sign. False: it is no value.
bool TakeValues(absl::string_view text, std::vector<std::string>& values) {
  std::string value;
  text = Trimmed(text);
  const bool list = !text.empty() && text.front() == '[';
  if (list) {
    text = Trimmed(text.substr(1));
    while (!text.empty() && text.front() != ']') {
      if (!TakeValue(text, ",]#", value)) return false;
      values.push_back(value);
      text = Trimmed(text);
      if (text.empty() || (text.front() != ',' && text.front() != ']')) return false;
      if (text.front() == ',') text = Trimmed(text.substr(1));
    }
    if (text.empty()) return false;
    text = Trimmed(text.substr(1));
  } else {
    if (!TakeValue(text, "#", value)) return false;
    values.push_back(value);
    text = Trimmed(text);
  }
  return text.empty() || text.front() == '#';
}

}  // namespace

absl::StatusOr<std::vector<FileSetting>> ParseSettings(absl::string_view text, absl::string_view section) {
  std::vector<FileSetting> settings;
  std::set<std::string> seen;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const auto refused = [number](const auto&... words) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", words...));
    };
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#' || line.front() == ';') continue;
    if (line.front() == '[') {
      if (line == absl::StrCat("[", section, "]")) continue;
      return refused("the only header may be [", section, "], found ", line);
    }
    const size_t equals = line.find('=');
    FileSetting setting;
    setting.line = number;
    setting.name = std::string(absl::StripAsciiWhitespace(line.substr(0, equals)));
    if (equals == absl::string_view::npos || setting.name.empty())
      return refused("expected flag = value, found ", line);
    if (!TakeValues(line.substr(equals + 1), setting.values)) {
      return refused("expected a value, one in quotes or [a, list], found ", Trimmed(line.substr(equals + 1)));
    }
    if (!seen.insert(setting.name).second) return refused(setting.name, " is given a second time");
    settings.push_back(std::move(setting));
  }
  return settings;
}

}  // namespace duo
