// Flags of the subcommands that take a text or a conversation. One thread.
#pragma once

#include "CLI/CLI.hpp"
#include "launcher/generate_texts.h"

namespace duo {

// `flags` outlives the parse. Returns --messages, for what excludes it.
CLI::Option* AddMessagesFlag(CLI::App& command, TextFlags& flags);
void AddTemplateArgFlag(CLI::App& command, TextFlags& flags);

}  // namespace duo
