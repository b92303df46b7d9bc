// What main alone may look at, and only the service needs: who started it, and where its flags have their values from.
// A plain value.
#pragma once

#include <string>

#include "launcher/terminal/commands.h"
#include "launcher/terminal/settings.h"

namespace duo {

struct Surroundings {
  std::string notify_socket;  // of the service manager that started the program (NOTIFY_SOCKET); empty: none did
  std::string commit;         // that the program was built from; empty: it was in no repository
  Settings settings;          // of the subcommand that was parsed
};

// Both outlive the app.
void AddServeCommand(CLI::App& app, Launch& launch, const Surroundings& surroundings);

}  // namespace duo
