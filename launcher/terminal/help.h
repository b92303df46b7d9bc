// How `--help` looks: two columns, wrapped at 100 characters; an option shows what it takes, its choices and its
// default.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace duo {

// What is said of one option: "--kv NAME" and "Format of the KV cache (one of ..; default auto)".
struct OptionHelp {
  std::string left, text;
  std::vector<std::string> choices;  // of its value; empty where it is no choice
  std::string takes;                 // "DIR", "N"; empty where it takes nothing
};
OptionHelp HelpOf(const CLI::Option& option, bool is_positional);

// The words that `help [SUBCOMMAND..]` stands for; others as they are.
std::vector<std::string> HelpAsFlag(std::vector<std::string> words);

class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_help(const CLI::App* command, std::string name, CLI::AppFormatMode mode) const override;
  std::string make_subcommand(const CLI::App* command) const override;
};

}  // namespace duo
