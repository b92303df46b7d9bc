// Who may call and what they may do: bearer tokens from a file, with the names and roles of those who hold them, and
// which addresses may be listened on without TLS or tokens. Values, immutable after loading, any thread; but for
// TokenFile, which can be read again while calls are checked.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace duo {

// kUser: sessions of their own. kAdmin: everybody's, and the server's life. kMetrics: numbers alone.
enum class Role { kUser, kAdmin, kMetrics };
const char* Name(Role role);  // "user", "admin", "metrics"

// What a call does, which says who may make it.
enum class Right {
  kSessions,  // works with sessions: user, admin
  kNumbers,   // reads the server's numbers: everyone
  kServer,    // the server's life: admin
};
bool Has(Role role, Right right);

// Whose call it is. A name, never a token, goes to logs and to disk.
struct Identity {
  std::string owner = "default";
  Role role = Role::kUser;
};

class TokenSet {
 public:
  // Lines are `TOKEN [NAME [ROLE]]`: a token of 16 to 512 printable characters, a name as sessions have them (default
  // without one), a role (user without one). Empty lines and lines beginning with # are skipped. Several tokens may
  // have one name, so that a token can be replaced. The file must not be readable by others than its owner's group.
  static absl::StatusOr<TokenSet> Load(const std::string& file);

  bool empty() const { return tokens_.empty(); }
  size_t size() const { return tokens_.size(); }
  // `header`: the value of the "authorization" metadata. Null: no token of this set. Takes the same time for every
  // token of the same length.
  const Identity* Find(std::string_view header) const;

 private:
  std::vector<std::pair<std::string, Identity>> tokens_;
};

// The token file that a server was given: what it holds now. Any thread.
class TokenFile {
 public:
  // path empty: no tokens are asked for.
  static absl::StatusOr<std::unique_ptr<TokenFile>> Open(const std::string& path);

  // Whether callers need a token.
  bool on() const { return !path_.empty(); }
  std::shared_ptr<const TokenSet> tokens() const;
  // Reads the file again and gives what takes it, which cannot fail. An error changes nothing.
  absl::StatusOr<std::function<void()>> Prepare();

 private:
  std::string path_;
  mutable std::mutex mutex_;
  std::shared_ptr<const TokenSet> tokens_;  // guarded by mutex_
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
  int max_streams = 100;                        // of one connection
  int64_t messages_bytes = int64_t{256} << 20;  // of messages on their way, over all connections
  double message_seconds = 30;                  // that one may take to come
};

// HOST:PORT, [V6]:PORT or unix:PATH. Does it reach this machine only?
bool IsLoopback(std::string_view address);

// A sentence when `address` is public and TLS does not protect it: a token sent in clear is everybody's.
absl::Status CheckExposure(std::string_view flag, std::string_view address, bool tls, bool tokens, bool insecure);

}  // namespace duo
