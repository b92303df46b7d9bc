#include "launcher/serve/start_checks.h"

#include <unistd.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "launcher/serve/ops/auth.h"
#include "launcher/serve/ops/metrics.h"

namespace duo {
namespace {

// A directory that can be made, or is there and can be written to.
absl::Status CheckDirectory(const std::string& dir) {
  std::error_code error;
  std::filesystem::path there = std::filesystem::absolute(dir, error);
  while (!error && !std::filesystem::exists(there, error) && there.has_parent_path()) there = there.parent_path();
  if (error) return absl::InvalidArgumentError(absl::StrCat("--save-dir ", dir, ": ", error.message()));
  const bool writable = std::filesystem::is_directory(there, error) && access(there.c_str(), W_OK | X_OK) == 0;
  if (writable) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--save-dir ", dir, ": ", there.string(), " is no directory that this user may write to"));
}

}  // namespace

absl::Status CheckAddresses(const ServerOptions& options) {
  const ListenOptions& grpc = options.grpc;
  const bool tokens = !options.token_file.empty();
  if (absl::Status s = CheckExposure("--listen", grpc.address, grpc.tls.on(), tokens, options.insecure); !s.ok())
    return s;
  if (options.metrics.empty() || IsLoopback(options.metrics) || options.insecure) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--metrics ", options.metrics, " can be reached from other machines without protection; --insecure allows it"));
}

absl::Status Server::Check(const ServerOptions& options) {
  if (absl::Status s = TokenFile::Open(options.token_file).status(); !s.ok()) return s;
  if (absl::Status s = CheckAddresses(options); !s.ok()) return s;
  if (absl::Status s = Metrics::Check(options.metrics); !s.ok()) return s;
  return options.save_dir.empty() ? absl::OkStatus() : CheckDirectory(options.save_dir);
}

}  // namespace duo
