// The flags that say which server is called, and as whom. One thread.
#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "launcher/client/client.h"

namespace duo {

struct ServerFlags {
  ClientOptions options;
  std::string token_file;
};

// --server, --tls-ca, --tls-cert, --tls-key, --token-file. `flags` must outlive the command.
void AddServerFlags(CLI::App& command, ServerFlags& flags);

// With the token that the file has. NOT_FOUND: it has none.
absl::StatusOr<ClientOptions> OptionsOf(const ServerFlags& flags);

// What was refused, and which of these flags may be missing or another.
absl::Status WithAdvice(const absl::Status& status, const ClientOptions& options);

}  // namespace duo
