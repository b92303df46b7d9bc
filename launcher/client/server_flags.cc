#include "launcher/client/server_flags.h"

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "launcher/terminal/checks.h"

namespace duo {

void AddServerFlags(CLI::App& command, ServerFlags& flags) {
  ClientOptions& o = flags.options;
  command.add_option("--server", o.server, "The server")
      ->type_name("HOST:PORT")
      ->check(Address())
      ->capture_default_str();
  auto* ca = command.add_option("--tls-ca", o.tls_ca, "Use TLS; the server's certificate is signed by these, PEM")
                 ->type_name("FILE");
  auto* cert = command.add_option("--tls-cert", o.tls_cert, "Own certificate (mTLS), PEM")->type_name("FILE");
  auto* key = command.add_option("--tls-key", o.tls_key, "Its private key, PEM")->type_name("FILE");
  cert->needs(ca)->needs(key);
  key->needs(cert);
  command
      .add_option("--token-file", flags.token_file,
                  "Bearer token: the first word of the file's first line; a server's token file will do")
      ->type_name("FILE");
}

absl::StatusOr<ClientOptions> OptionsOf(const ServerFlags& flags) {
  ClientOptions options = flags.options;
  if (flags.token_file.empty()) return options;
  std::ifstream in(flags.token_file);
  for (std::string line; std::getline(in, line);) {  // as the server reads its own file: TOKEN [NAME [ROLE]]
    std::istringstream words(line);
    if (words >> options.token && options.token[0] != '#') return options;
  }
  return absl::NotFoundError(flags.token_file + ": cannot read a token from it");
}

absl::Status WithAdvice(const absl::Status& status, const ClientOptions& options) {
  std::string sentence(status.message());
  if (absl::IsUnavailable(status)) {  // as one that drains is
    absl::StrAppend(&sentence, "; is a `duo serve` running there? --server HOST:PORT names another than ",
                    options.server);
    if (options.tls_ca.empty()) absl::StrAppend(&sentence, ", and --tls-ca FILE is for one that speaks TLS");
  } else if (absl::IsUnauthenticated(status) && options.token.empty()) {
    absl::StrAppend(&sentence, "; --token-file FILE sends one");
  }
  return absl::Status(status.code(), sentence);
}

}  // namespace duo
