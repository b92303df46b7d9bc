#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "launcher/package/docs.h"
#include "launcher/terminal/help.h"

namespace duo {
namespace {

using Visit = std::function<void(const CLI::App&, const std::string& path)>;

void ForEach(const CLI::App& command, const std::string& path, const Visit& visit) {
  visit(command, path);
  for (const CLI::App* below : SubcommandsOf(command)) {
    ForEach(*below, absl::StrCat(path, " ", below->get_name()), visit);
  }
}

std::vector<std::string> NamesBelow(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* below : SubcommandsOf(command)) names.push_back(below->get_name());
  return names;
}

bool TakesFile(const OptionHelp& help) { return help.takes == "FILE" || help.takes == "DIR"; }

// As a zsh word in single quotes, with what _arguments takes for its own kept from it.
std::string Described(const std::string& text) {
  return absl::StrReplaceAll(text, {{"'", "'\\''"}, {"[", "\\["}, {"]", "\\]"}, {":", "\\:"}, {"\n", " "}});
}

}  // namespace

std::string BashCompletion(const CLI::App& app) {
  std::string paths, values, words;
  ForEach(app, "duo", [&](const CLI::App& command, const std::string& path) {
    if (path != "duo") absl::StrAppend(&paths, paths.empty() ? "" : " | ", "\"", path, "\"");
    std::vector<std::string> names = NamesBelow(command);
    for (const CLI::Option* option : command.get_options()) {
      const OptionHelp help = HelpOf(*option, false);
      for (const std::string& flag : option->get_lnames()) {
        names.push_back("--" + flag);
        const std::string pattern = absl::StrCat("    \"", path, " --", flag, "\") ");
        if (!help.choices.empty())
          absl::StrAppend(&values, pattern, "words=\"", absl::StrJoin(help.choices, " "), "\" ;;\n");
        if (TakesFile(help)) absl::StrAppend(&values, pattern, "return ;;\n");
      }
    }
    absl::StrAppend(&words, "    \"", path, "\") words=\"", absl::StrJoin(names, " "), "\" ;;\n");
  });
  return absl::StrCat(
      "# bash completion of duo, made from its help. Where no word fits, files are offered.\n"
      "# shellcheck shell=bash\n"
      "_duo() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} path=duo words=\"\" i\n"
      "  COMPREPLY=()\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    case \"$path ${COMP_WORDS[i]}\" in\n      ",
      paths,
      ") path+=\" ${COMP_WORDS[i]}\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case \"$path $prev\" in\n",
      values,
      "  esac\n"
      "  [ -n \"$words\" ] || case \"$path\" in\n",
      words,
      "  esac\n"
      "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
      "}\n"
      "complete -o default -F _duo duo\n");
}

std::string ZshCompletion(const CLI::App& app) {
  std::vector<std::string> paths;
  std::string cases;
  ForEach(app, "duo", [&](const CLI::App& command, const std::string& path) {
    if (path != "duo") paths.push_back(absl::StrCat("'", path, "'"));
    absl::StrAppend(&cases, "    '", path, "')\n      _arguments");
    for (const CLI::Option* option : command.get_options()) {
      const OptionHelp help = HelpOf(*option, false);
      for (const std::string& flag : option->get_lnames()) {
        absl::StrAppend(&cases, " \\\n        '*--", flag, help.takes.empty() ? "" : "=", "[",
                        Described(option->get_description()), "]");
        if (!help.takes.empty()) {
          const std::string action = !help.choices.empty() ? absl::StrCat("(", absl::StrJoin(help.choices, " "), ")")
                                     : help.takes == "DIR" ? "_files -/"
                                     : TakesFile(help)     ? "_files"
                                                           : " ";
          absl::StrAppend(&cases, ":", Described(help.takes), ":", action);
        }
        absl::StrAppend(&cases, "'");
      }
    }
    const std::vector<std::string> below = NamesBelow(command);
    if (!below.empty()) absl::StrAppend(&cases, " \\\n        '1:command:(", absl::StrJoin(below, " "), ")'");
    absl::StrAppend(&cases, "\n      ;;\n");
  });
  return absl::StrCat(
      "#compdef duo\n"
      "# zsh completion of duo, made from its help.\n"
      "_duo() {\n"
      "  local command=duo\n"
      "  while (( CURRENT > 2 )); do\n"
      "    case \"$command $words[2]\" in\n"
      "      (",
      absl::StrJoin(paths, "|"),
      ") command+=\" $words[2]\" ;;\n"
      "      (*) break ;;\n"
      "    esac\n"
      "    shift words\n"
      "    (( CURRENT-- ))\n"
      "  done\n"
      "  case $command in\n",
      cases,
      "  esac\n"
      "}\n"
      "_duo \"$@\"\n");
}

}  // namespace duo
