// Settings: where a subcommand's flags have their values from: the command line, environment variables DUO_FLAG, and a
// file that --config (or DUO_CONFIG) names, in this order. A subcommand takes part by having a flag --print-config.
//
// The file has lines `flag = value`, as TOML and INI have them: comments behind #, values bare or quoted, lists in
// brackets, and, if one likes, a header with the subcommand's name. Plain values; any thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace duo {

// Variables of the environment by name; only those that begin with DUO_.
using Environment = std::map<std::string, std::string>;

// One line of a file of settings.
struct FileSetting {
  std::string name;  // without dashes
  std::vector<std::string> values;
  int line = 0;
};

// section: the one header that is allowed. INVALID_ARGUMENT with the line's number.
absl::StatusOr<std::vector<FileSetting>> ParseSettings(absl::string_view text, absl::string_view section);

// "DUO_SAVE_DIR" of "save-dir".
std::string VariableOf(absl::string_view flag);

class Settings {
 public:
  // What the subcommand that `arguments` choose would run with; nothing where it takes no part. Where they ask for
  // --print-config no flag is required any more. Errors name the variable, or the file and its line.
  static absl::StatusOr<Settings> Gather(CLI::App& app, const std::vector<std::string>& arguments,
                                         const Environment& environment);

  // The command line with the flags that come from elsewhere behind it.
  std::vector<std::string> Expanded() const;
  // A refusal, and where the flags that it names have their values from.
  std::string Explained(const std::string& refusal) const;
  // What the file says of a flag now, empty where it says nothing of it; nothing where no file is used, or the command
  // line or the environment stands above it. Any thread.
  absl::StatusOr<std::optional<std::string>> InFileNow(const std::string& flag) const;
  // All flags of the parsed subcommand, each with its value and its source, as a file for --config.
  std::string Printed(const CLI::App& command) const;

 private:
  struct Given {
    std::vector<std::string> values;
    std::string source;  // "DUO_KV", "duo.toml:3"
  };
  std::string TakeArguments();
  void TakeEnvironment(const CLI::App& command, const Environment& environment);
  absl::Status TakeFile(const CLI::App& command, const std::string& file);
  bool Free(const CLI::App& command, const CLI::Option& option) const;

  std::vector<std::string> arguments_;
  std::string file_, section_;          // empty: none is used
  std::map<std::string, Given> given_;  // by the flag's name, without dashes; source empty: the command line
  std::vector<std::string> notes_;      // for --print-config
};

}  // namespace duo
