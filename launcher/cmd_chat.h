// `duo chat`.
#pragma once

#include "launcher/terminal/commands.h"

namespace duo {

void AddChatCommand(CLI::App& app, Launch& launch);

}  // namespace duo
