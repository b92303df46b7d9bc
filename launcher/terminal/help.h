// How `--help` looks: two columns, wrapped at 100 characters; an option shows what it takes, its choices and its
// default.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"

namespace duo {

// What is said of one option: "--kv NAME" and "Format of the KV cache (one of ..; default auto)".
struct OptionHelp {
  std::string left, text;
  std::vector<std::string> choices;  // of its value; empty where it is no choice
  std::string takes;                 // "DIR", "N"; empty where it takes nothing
};
OptionHelp HelpOf(const CLI::Option& option, bool is_positional);

// The words that `help [SUBCOMMAND..]` stands for, wherever a subcommand could stand; others as they are. Refused:
// words behind a subcommand that has none of its own.
absl::StatusOr<std::vector<std::string>> HelpAsFlag(const CLI::App& app, std::vector<std::string> words);

class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_help(const CLI::App* command, std::string name, CLI::AppFormatMode mode) const override;
  std::string make_subcommand(const CLI::App* command) const override;
};

}  // namespace duo
