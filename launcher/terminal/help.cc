#include "launcher/terminal/help.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace duo {
namespace {

constexpr size_t kLeft = 28, kRight = 100;  // where the second column begins, where it ends

// "  left      text", the text in lines of its own column; a left side that is too long has a line of its own.
std::string TwoColumns(const std::string& left, const std::string& text) {
  std::string out = absl::StrCat("  ", left), line;
  if (out.size() >= kLeft)
    out.append("\n").append(kLeft, ' ');
  else
    out.resize(kLeft, ' ');
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!line.empty() && kLeft + line.size() + 1 + word.size() > kRight) {
      absl::StrAppend(&out, line, "\n", std::string(kLeft, ' '));
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  return absl::StrCat(out, line, "\n");
}

// CLI11 joins a type and what its checks allow, as in "TEXT:{auto,cpu,cuda}" and "INT:INT in [1 - 4096]".
struct TypeText {
  std::string name;     // "FILE", "N"
  std::string choices;  // "auto, cpu, cuda"; empty where it is no choice
};

TypeText Split(const std::string& type) {
  const std::vector<std::string> parts = absl::StrSplit(type, absl::MaxSplits(':', 1));
  const std::string& checks = parts.size() > 1 ? parts[1] : "";
  TypeText out;
  if (const size_t open = checks.find('{'), close = checks.find('}'); open != std::string::npos && close > open) {
    out.choices = absl::StrReplaceAll(checks.substr(open + 1, close - open - 1), {{",", ", "}});
  }
  // HOST:PORT is a name, not a check.
  out.name = type == "HOST:PORT"                       ? type
             : !out.choices.empty()                    ? "NAME"
             : parts[0] == "INT" || parts[0] == "UINT" ? "N"
             : parts[0] == "FLOAT"                     ? "X"
                                                       : parts[0];
  return out;
}

}  // namespace

OptionHelp HelpOf(const CLI::Option& option, bool is_positional) {
  OptionHelp help = {option.get_name(is_positional, !is_positional), option.get_description(), {}, ""};
  std::vector<std::string> notes;
  if (option.get_type_size() != 0) {  // flags take nothing
    const TypeText type = Split(option.get_type_name());
    help.takes = type.name;
    if (!type.name.empty()) absl::StrAppend(&help.left, " ", type.name);
    if (!type.choices.empty()) {
      notes.push_back(absl::StrCat("one of ", type.choices));
      help.choices = absl::StrSplit(type.choices, ", ");
    }
    if (const std::string value = absl::StrReplaceAll(option.get_default_str(), {{"[", ""}, {"]", ""}}); !value.empty())
      notes.push_back(absl::StrCat("default ", value));
    if (option.get_required()) notes.emplace_back("required");
  }
  if (!notes.empty()) absl::StrAppend(&help.text, " (", absl::StrJoin(notes, "; "), ")");
  help.left = absl::StrReplaceAll(help.left, {{",-", ", -"}});
  return help;
}

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  const OptionHelp help = HelpOf(*option, is_positional);
  return TwoColumns(help.left, help.text);
}

std::string HelpFormatter::make_help(const CLI::App* command, std::string name, CLI::AppFormatMode mode) const {
  return absl::StrReplaceAll(CLI::Formatter::make_help(command, std::move(name), mode), {{"\n\n\n", "\n\n"}});
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  return TwoColumns(command->get_name(), command->get_description());
}

absl::StatusOr<std::vector<std::string>> HelpAsFlag(const CLI::App& app, std::vector<std::string> words) {
  const auto commands = [](const CLI::App& of) { return of.get_subcommands([](const CLI::App*) { return true; }); };
  const CLI::App* command = &app;
  bool help = false;
  size_t at = 0;
  while (at < words.size() && !commands(*command).empty()) {
    if (words[at] == "help") {
      help = true;
      words.erase(words.begin() + static_cast<int64_t>(at));
      continue;
    }
    const std::vector<const CLI::App*> below = commands(*command);
    const auto next =
        std::find_if(below.begin(), below.end(), [&](const CLI::App* one) { return one->get_name() == words[at]; });
    if (next == below.end()) break;  // the parser says what is wrong with it
    command = *next;
    ++at;
  }
  if (!help) return words;
  if (at < words.size() && commands(*command).empty() && !words[at].starts_with("-")) {
    return absl::InvalidArgumentError(
        absl::StrCat("duo help ", absl::StrJoin(words.begin(), words.begin() + static_cast<int64_t>(at), " "),
                     ": expected no more words, found ", words[at]));
  }
  words.emplace_back("--help");
  return words;
}

}  // namespace duo
