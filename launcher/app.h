// The whole command line of `duo`: its subcommands, their flags and helps. For main, and for what is made from the
// helps (launcher/package).
#pragma once

#include <memory>

#include "CLI/CLI.hpp"
#include "launcher/surroundings.h"

namespace duo {

// Both outlive the app; launch is told what was chosen.
std::unique_ptr<CLI::App> MakeApp(Launch& launch, const Surroundings& surroundings);

}  // namespace duo
