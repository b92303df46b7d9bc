// What is made of the helps: man pages and shell completion. Pure functions; any thread.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/string_view.h"

namespace duo {

// Of one command and, where it has any, its verbs. path: "duo", "duo client".
std::string ManPage(const CLI::App& command, const std::string& path, absl::string_view version,
                    absl::string_view date);

// Scripts for the two shells: subcommands, flags, the values of flags that have a choice, files and folders.
std::string BashCompletion(const CLI::App& app);
std::string ZshCompletion(const CLI::App& app);

// All subcommands of a command, as they are listed in its help.
std::vector<const CLI::App*> SubcommandsOf(const CLI::App& command);

}  // namespace duo
