#include "launcher/serve/ops/auth.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/read_file.h"

namespace duo {
namespace {

constexpr std::string_view kScheme = "Bearer ";
constexpr size_t kShortest = 16, kLongest = 512;

// No early exit: the time depends on the lengths alone.
bool SameBytes(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  volatile unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = difference | static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace

absl::StatusOr<TokenSet> TokenSet::Load(const std::string& file) {
  struct stat info = {};
  if (stat(file.c_str(), &info) == 0 && (info.st_mode & S_IROTH) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": everyone on this machine can read the tokens; expected mode 0640 or stricter (chmod o-rwx)"));
  }
  absl::StatusOr<std::string> text = ReadFile(file);
  if (!text.ok()) return text.status();
  TokenSet set;
  int number = 0;
  for (const std::string& raw : std::vector<std::string>(absl::StrSplit(*text, '\n'))) {
    ++number;
    std::string line = raw;
    absl::StripAsciiWhitespace(&line);
    if (line.empty() || line[0] == '#') continue;
    bool printable = true;
    for (char c : line) printable = printable && absl::ascii_isgraph(c);
    if (!printable || line.size() < kShortest || line.size() > kLongest) {
      return absl::InvalidArgumentError(absl::StrCat(file, ":", number, ": expected a token of ", kShortest, " to ",
                                                     kLongest, " printable characters, found ", line.size(),
                                                     printable ? "" : ", not all printable"));
    }
    set.tokens_.push_back(line);
  }
  if (set.tokens_.empty()) return absl::InvalidArgumentError(absl::StrCat(file, ": holds no token"));
  return set;
}

bool TokenSet::Allows(std::string_view header) const {
  if (header.substr(0, kScheme.size()) != kScheme) return false;
  header.remove_prefix(kScheme.size());
  bool allowed = false;
  for (const std::string& token : tokens_) allowed |= SameBytes(token, header);
  return allowed;
}

bool IsLoopback(std::string_view address) {
  if (address.substr(0, 5) == "unix:") return true;
  const size_t colon = address.rfind(':');
  std::string_view host = colon == std::string_view::npos ? address : address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host == "localhost" || host == "::1") return true;
  // 127.0.0.0/8 in full dotted form: names like 127.evil.example are not addresses.
  const std::vector<std::string> parts = absl::StrSplit(std::string(host), '.');
  if (parts.size() != 4 || parts[0] != "127") return false;
  for (const std::string& part : parts) {
    if (part.empty() || part.size() > 3) return false;
    for (char c : part) {
      if (!absl::ascii_isdigit(c)) return false;
    }
  }
  return true;
}

absl::Status CheckExposure(std::string_view flag, std::string_view address, bool tls, bool tokens, bool insecure) {
  if (IsLoopback(address) || tls || tokens || insecure) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(flag), " ", std::string(address),
                   " can be reached from other machines and nothing protects it: give --tls-cert and --tls-key, "
                   "or --token-file, or listen on 127.0.0.1; --insecure listens all the same"));
}

}  // namespace duo
