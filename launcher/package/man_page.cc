#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "launcher/package/docs.h"
#include "launcher/terminal/help.h"

namespace duo {
namespace {

// Text as roff has it: hyphens that are typed, backslashes, lines that would be requests.
std::string Roff(absl::string_view text) {
  std::string out = absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}});
  if (!out.empty() && (out[0] == '.' || out[0] == '\'')) out.insert(0, "\\&");
  return out;
}

// A description's lines are filled; a line that begins with a space stays as it is, as examples have it.
std::string Paragraphs(absl::string_view text) {
  std::string out;
  bool literal = false;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const absl::string_view words = absl::StripAsciiWhitespace(line);
    if (words.empty() || words == "Examples:" || words == "Example:") continue;
    const bool as_it_is = line[0] == ' ';
    if (as_it_is != literal) {
      absl::StrAppend(&out, as_it_is && !out.empty() ? ".PP\n" : "", as_it_is ? ".nf\n" : ".fi\n.PP\n");
    }
    literal = as_it_is;
    absl::StrAppend(&out, Roff(as_it_is ? line : words), "\n");
  }
  return literal ? absl::StrCat(out, ".fi\n") : out;
}

std::string Item(const OptionHelp& help) {
  return absl::StrCat(".TP\n.B ", Roff(help.left), "\n", help.text.empty() ? "" : Roff(help.text), "\n");
}

// What a command takes, under `heading` and the groups of its help.
std::string Options(const CLI::App& command, const char* heading) {
  std::string out;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional() && option->get_lnames().empty()) absl::StrAppend(&out, Item(HelpOf(*option, true)));
  }
  std::vector<std::string> groups;
  for (const CLI::Option* option : command.get_options()) {
    if (std::find(groups.begin(), groups.end(), option->get_group()) == groups.end()) {
      groups.push_back(option->get_group());
    }
  }
  for (const std::string& group : groups) {
    std::string items;
    for (const CLI::Option* option : command.get_options()) {
      if (option->get_group() == group && !option->get_lnames().empty()) {
        absl::StrAppend(&items, Item(HelpOf(*option, false)));
      }
    }
    if (items.empty()) continue;
    if (group != "Options") absl::StrAppend(&out, ".SS ", group, "\n");
    absl::StrAppend(&out, items);
  }
  return out.empty() ? out : absl::StrCat(heading, out);
}

std::string Footer(const CLI::App& command, const char* heading) {
  return command.get_footer().empty() ? "" : absl::StrCat(heading, Paragraphs(command.get_footer()));
}

}  // namespace

std::vector<const CLI::App*> SubcommandsOf(const CLI::App& command) {
  return command.get_subcommands([](const CLI::App*) { return true; });
}

std::string ManPage(const CLI::App& command, const std::string& path, absl::string_view version,
                    absl::string_view date) {
  const std::string name = absl::StrReplaceAll(path, {{" ", "-"}});
  const std::vector<const CLI::App*> verbs = SubcommandsOf(command);
  const std::string first(command.get_description().substr(0, command.get_description().find('\n')));
  std::string out = absl::StrCat(".\\\" Made from the program's help.\n.TH ", absl::AsciiStrToUpper(name), " 1 ", date,
                                 " \"duo ", version, "\" \"duo\"\n.SH NAME\n");
  absl::StrAppend(&out, Roff(name), " \\- ", path == "duo" ? "answer questions on very long documents" : Roff(first),
                  "\n.SH SYNOPSIS\n.B ", path, "\n", verbs.empty() ? "" : "SUBCOMMAND\n",
                  "[OPTIONS]\n.SH DESCRIPTION\n", Paragraphs(command.get_description()));
  absl::StrAppend(&out, Options(command, ".SH OPTIONS\n"));
  if (!verbs.empty()) absl::StrAppend(&out, ".SH SUBCOMMANDS\n");
  for (const CLI::App* verb : verbs) {
    if (path == "duo") {  // they have pages of their own
      absl::StrAppend(&out, ".TP\n.BR duo\\-", verb->get_name(), " (1)\n", Roff(verb->get_description()), "\n");
      continue;
    }
    absl::StrAppend(&out, ".SS ", Roff(absl::StrCat(path, " ", verb->get_name())), "\n",
                    Paragraphs(verb->get_description()), Options(*verb, ""), Footer(*verb, ".PP\n"));
  }
  absl::StrAppend(&out, Footer(command, ".SH EXAMPLES AND NOTES\n"));
  if (path == "duo") return out;
  return absl::StrCat(out, ".SH SEE ALSO\n.BR duo (1)\n");
}

}  // namespace duo
