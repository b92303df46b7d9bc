#include "launcher/terminal/settings.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "kernels/base/read_file.h"
#include "launcher/terminal/usage_error.h"

namespace duo {
namespace {

constexpr char kConfig[] = "config", kPrint[] = "print-config";

// Of a flag that has a value of its own in each of the three places.
bool IsSetting(const CLI::Option& option) {
  const std::vector<std::string>& names = option.get_lnames();
  return !names.empty() && names[0] != "help" && names[0] != kConfig && names[0] != kPrint;
}

std::vector<const CLI::Option*> SettingsOf(const CLI::App& command) {
  std::vector<const CLI::Option*> options;
  for (const CLI::Option* option : command.get_options()) {
    if (IsSetting(*option)) options.push_back(option);
  }
  return options;
}

const CLI::Option* Find(const CLI::App& command, const std::string& name) {
  for (const CLI::Option* option : SettingsOf(command)) {
    if (option->get_lnames()[0] == name) return option;
  }
  return nullptr;
}

CLI::App* Chosen(CLI::App& app, const std::vector<std::string>& arguments) {
  if (arguments.empty()) return nullptr;
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) {
    if (command->get_name() == arguments[0]) return command;
  }
  return nullptr;
}

// Flags that may be repeated have their values in one variable, between commas.
std::vector<std::string> ValuesOf(const CLI::Option& option, const std::string& text) {
  const bool repeats = option.get_items_expected_max() > 1 && option.get_delimiter() == '\0';
  if (!repeats) return {text};
  return absl::StrSplit(text, ',', absl::SkipEmpty());
}

std::string Quoted(const std::string& value) {
  return absl::StrCat("\"", absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}}), "\"");
}

// Values that the parser keeps apart at a delimiter are one value of the file.
std::string ValueText(const CLI::Option& option) {
  std::vector<std::string> values = option.results();
  if (option.get_type_size() == 0) return values.back();  // a flag's true or false
  if (option.get_delimiter() != '\0') values = {absl::StrJoin(values, std::string(1, option.get_delimiter()))};
  for (std::string& value : values) value = Quoted(value);
  return option.get_items_expected_max() > 1 ? absl::StrCat("[", absl::StrJoin(values, ", "), "]") : values.back();
}

// Empty where it depends on the model or the machine, as the help says.
std::string DefaultText(const CLI::Option& option) {
  if (option.get_type_size() == 0) return "false";
  return option.get_default_str().empty() ? "" : Quoted(option.get_default_str());
}

std::vector<std::string> VariablesOf(const CLI::App& command) {
  std::vector<std::string> names = {VariableOf(kConfig)};
  for (const CLI::Option* option : SettingsOf(command)) names.push_back(VariableOf(option->get_lnames()[0]));
  return names;
}

std::vector<std::string> FlagNames(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : SettingsOf(command)) names.push_back(option->get_lnames()[0]);
  return names;
}

std::string DidYouMean(const std::string& nearest) {
  return nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?");
}

}  // namespace

std::string VariableOf(absl::string_view flag) {
  return absl::StrCat("DUO_", absl::AsciiStrToUpper(absl::StrReplaceAll(flag, {{"-", "_"}})));
}

// Nothing above gives the flag a value, or one that excludes it.
bool Settings::Free(const CLI::App& command, const CLI::Option& option) const {
  for (const auto& [name, given] : given_) {
    const CLI::Option* other = Find(command, name);
    if (other == nullptr) continue;
    const std::set<CLI::Option*> excluded = option.get_excludes();
    const auto is_other = [&](const CLI::Option* one) { return one == other; };
    if (other == &option || std::any_of(excluded.begin(), excluded.end(), is_other)) return false;
  }
  return true;
}

absl::Status Settings::TakeFile(const CLI::App& command, const std::string& file) {
  const absl::StatusOr<std::string> text = ReadFile(file);
  if (!text.ok()) return absl::InvalidArgumentError(absl::StrCat("--config ", text.status().message()));
  const absl::StatusOr<std::vector<FileSetting>> settings = ParseSettings(*text, command.get_name());
  if (!settings.ok()) return absl::InvalidArgumentError(absl::StrCat(file, ": ", settings.status().message()));
  std::map<std::string, Given> taken;
  for (const FileSetting& setting : *settings) {
    const CLI::Option* option = Find(command, setting.name);
    const std::string where = absl::StrCat(file, ":", setting.line);
    if (option == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": duo ", command.get_name(), " has no flag --",
                                                     setting.name,
                                                     DidYouMean(Nearest(setting.name, FlagNames(command)))));
    }
    if (setting.values == std::vector<std::string>{""} || !Free(command, *option)) continue;
    taken[setting.name] = {setting.values, where};
  }
  given_.merge(taken);
  return absl::OkStatus();
}

// The flags of the command line, and the file that one of them names.
std::string Settings::TakeArguments() {
  std::string file;
  for (size_t i = 1; i < arguments_.size(); ++i) {
    const std::string& word = arguments_[i];
    if (word.size() < 3 || word.compare(0, 2, "--") != 0) continue;
    const size_t equals = word.find('=');
    const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
    given_[name] = {};
    if (name != kConfig) continue;
    if (equals != std::string::npos) {
      file = word.substr(equals + 1);
    } else if (i + 1 < arguments_.size()) {
      file = arguments_[i + 1];
    }
  }
  return file;
}

void Settings::TakeEnvironment(const CLI::App& command, const Environment& environment) {
  std::map<std::string, Given> taken;
  for (const CLI::Option* option : SettingsOf(command)) {
    const std::string name = option->get_lnames()[0], variable = VariableOf(name);
    const auto found = environment.find(variable);
    if (found == environment.end() || found->second.empty() || !Free(command, *option)) continue;
    taken[name] = {ValuesOf(*option, found->second), variable};
  }
  given_.merge(taken);
  const std::vector<std::string> variables = VariablesOf(command);
  for (const auto& [variable, value] : environment) {
    if (std::find(variables.begin(), variables.end(), variable) != variables.end()) continue;
    const std::string nearest = Nearest(variable, variables);
    if (nearest.empty()) continue;  // others may have variables DUO_, too
    notes_.push_back(absl::StrCat(variable, " is set and is no flag of duo ", command.get_name(), DidYouMean(nearest)));
  }
}

absl::StatusOr<Settings> Settings::Gather(CLI::App& app, const std::vector<std::string>& arguments,
                                          const Environment& environment) {
  Settings settings;
  settings.arguments_ = arguments;
  CLI::App* command = Chosen(app, arguments);
  if (command == nullptr || command->get_option_no_throw(absl::StrCat("--", kPrint)) == nullptr) return settings;
  for (const char* help : {"-h", "--help"}) {  // is there whatever the rest is
    if (std::find(arguments.begin(), arguments.end(), help) != arguments.end()) return settings;
  }
  std::string file = settings.TakeArguments();
  if (settings.given_.count(kPrint) > 0) {
    for (CLI::Option* option : command->get_options()) option->required(false);
  }
  settings.TakeEnvironment(*command, environment);
  const auto named = environment.find(VariableOf(kConfig));
  if (file.empty() && named != environment.end()) file = named->second;
  if (file.empty()) return settings;
  if (absl::Status s = settings.TakeFile(*command, file); !s.ok()) return s;
  settings.file_ = file;
  settings.section_ = command->get_name();
  return settings;
}

absl::StatusOr<std::optional<std::string>> Settings::InFileNow(const std::string& flag) const {
  const auto given = given_.find(flag);
  const bool above = given != given_.end() && given->second.source.rfind(file_ + ":", 0) != 0;
  if (file_.empty() || above) return std::nullopt;
  const absl::StatusOr<std::string> text = ReadFile(file_);
  if (!text.ok()) return absl::InvalidArgumentError(absl::StrCat("--config ", text.status().message()));
  const absl::StatusOr<std::vector<FileSetting>> settings = ParseSettings(*text, section_);
  if (!settings.ok()) return absl::InvalidArgumentError(absl::StrCat(file_, ": ", settings.status().message()));
  for (const FileSetting& setting : *settings) {
    if (setting.name == flag) return std::optional<std::string>(setting.values.empty() ? "" : setting.values.back());
  }
  return std::optional<std::string>("");
}

std::vector<std::string> Settings::Expanded() const {
  std::vector<std::string> words = arguments_;
  for (const auto& [name, given] : given_) {
    for (const std::string& value : given.values) words.push_back(absl::StrCat("--", name, "=", value));
  }
  return words;
}

std::string Settings::Explained(const std::string& refusal) const {
  std::string text = refusal;
  for (const auto& [name, given] : given_) {
    if (given.source.empty()) continue;
    const size_t at = refusal.find("--" + name);
    if (at == std::string::npos) continue;
    const size_t end = at + 2 + name.size();
    if (end < refusal.size() && (absl::ascii_isalnum(refusal[end]) || refusal[end] == '-')) continue;
    absl::StrAppend(&text, "; --", name, " is from ", given.source);
  }
  return text;
}

std::string Settings::Printed(const CLI::App& command) const {
  std::string text = absl::StrCat("# What duo ", command.get_name(),
                                  " runs with: flags stand above the environment (DUO_FLAG), that above a file\n"
                                  "# (--config FILE), and this is one. Lines that begin with # are defaults.\n");
  for (const std::string& note : notes_) absl::StrAppend(&text, "# NOTE: ", note, "\n");
  std::string group;
  for (const CLI::Option* option : SettingsOf(command)) {
    if (option->get_group() != group) absl::StrAppend(&text, "\n# ", group = option->get_group(), "\n");
    const std::string name = option->get_lnames()[0];
    if (option->results().empty()) {
      absl::StrAppend(&text, "#", name, " = ", DefaultText(*option), "\n");
      continue;
    }
    const auto found = given_.find(name);
    const bool elsewhere = found != given_.end() && !found->second.source.empty();
    absl::StrAppend(&text, name, " = ", ValueText(*option), "  # from ",
                    elsewhere ? found->second.source : "the command line", "\n");
  }
  return text;
}

}  // namespace duo
