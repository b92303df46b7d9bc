// Who may call: bearer tokens from a file, certificates, and which addresses may be listened on without either.
// Values, immutable after loading; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace duo {

class TokenSet {
 public:
  // One token a line, 16 to 512 printable characters without spaces; empty lines and lines beginning with # are
  // skipped. The file must not be readable by others than its owner's group.
  static absl::StatusOr<TokenSet> Load(const std::string& file);

  bool empty() const { return tokens_.empty(); }
  // `header`: the value of the "authorization" metadata. Takes the same time for every token of the same length.
  bool Allows(std::string_view header) const;

 private:
  std::vector<std::string> tokens_;
};

struct TlsFiles {
  std::string certificate, key;  // PEM; both or neither
  std::string client_ca;         // PEM: clients must show a certificate that these authorities signed (mTLS)
  bool on() const { return !certificate.empty(); }
};

// Where a transport listens.
struct ListenOptions {
  std::string address = "127.0.0.1:50051";  // HOST:PORT (port 0: any), [V6]:PORT, unix:PATH
  TlsFiles tls;
  int64_t max_message_bytes = 4 << 20;
};

// HOST:PORT, [V6]:PORT or unix:PATH. Does it reach this machine only?
bool IsLoopback(std::string_view address);

// A sentence when `address` is public and neither TLS nor a token protects it.
absl::Status CheckExposure(std::string_view flag, std::string_view address, bool tls, bool tokens, bool insecure);

}  // namespace duo
