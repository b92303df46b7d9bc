// How `--help` looks: two columns, wrapped at 100 characters; an option shows what it takes, its choices and its
// default.
#pragma once

#include <string>

#include "CLI/CLI.hpp"

namespace duo {

class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_help(const CLI::App* command, std::string name, CLI::AppFormatMode mode) const override;
  std::string make_subcommand(const CLI::App* command) const override;
};

}  // namespace duo
