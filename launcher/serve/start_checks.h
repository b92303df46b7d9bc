// What of a server's options can be found wrong before its model is loaded.
#pragma once

#include "absl/status/status.h"
#include "launcher/serve/server.h"

namespace duo {

// Refuses addresses that other machines can reach without the protection that they need.
absl::Status CheckAddresses(const ServerOptions& options);

}  // namespace duo
