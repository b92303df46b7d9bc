#include "launcher/serve/ops/auth.h"

#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/read_file.h"

namespace duo {
namespace {

constexpr std::string_view kScheme = "Bearer ";
constexpr size_t kShortest = 16, kLongest = 512, kLongestName = 64;

// No early exit: the time depends on the lengths alone.
bool SameBytes(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  volatile unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = difference | static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

bool ValidName(std::string_view name) {
  if (name.empty() || name.size() > kLongestName || name[0] == '.') return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; });
}

// Who holds the token of a line of these words. Its sentences never show the token.
absl::StatusOr<Identity> CheckLine(const std::vector<std::string>& words) {
  const std::string& token = words[0];
  const bool printable = std::all_of(token.begin(), token.end(), [](char c) { return absl::ascii_isgraph(c); });
  if (!printable || token.size() < kShortest || token.size() > kLongest) {
    return absl::InvalidArgumentError(absl::StrCat("expected a token of ", kShortest, " to ", kLongest,
                                                   " printable characters, found ", token.size(),
                                                   printable ? "" : ", not all printable"));
  }
  if (words.size() > 3) return absl::InvalidArgumentError("expected TOKEN [NAME [ROLE]], found more");
  Identity who;
  if (words.size() > 1) {
    who.owner = words[1];
    if (!ValidName(who.owner)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a name has 1 to ", kLongestName, " of A-Z a-z 0-9 . _ - and does not begin with a dot"));
    }
  }
  if (words.size() < 3) return who;
  for (Role role : {Role::kUser, Role::kAdmin, Role::kMetrics}) {
    who.role = role;
    if (words[2] == Name(role)) return who;
  }
  return absl::InvalidArgumentError(absl::StrCat("a role is user, admin or metrics, found \"", words[2], "\""));
}

}  // namespace

const char* Name(Role role) {
  switch (role) {
    case Role::kUser:
      return "user";
    case Role::kAdmin:
      return "admin";
    case Role::kMetrics:
      return "metrics";
  }
  return "?";
}

bool Has(Role role, Right right) {
  switch (right) {
    case Right::kSessions:
      return role != Role::kMetrics;
    case Right::kNumbers:
      return true;
    case Right::kServer:
      return role == Role::kAdmin;
  }
  return false;
}

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
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(*text, '\n'))) {
    ++number;
    const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty() || words[0][0] == '#') continue;
    absl::StatusOr<Identity> who = CheckLine(words);
    for (const auto& [token, known] : set.tokens_) {
      if (who.ok() && token == words[0]) who = absl::InvalidArgumentError("this token stands in a line above, too");
    }
    if (!who.ok()) return absl::InvalidArgumentError(absl::StrCat(file, ":", number, ": ", who.status().message()));
    set.tokens_.emplace_back(words[0], *std::move(who));
  }
  if (set.tokens_.empty()) return absl::InvalidArgumentError(absl::StrCat(file, ": holds no token"));
  return set;
}

const Identity* TokenSet::Find(std::string_view header) const {
  if (header.substr(0, kScheme.size()) != kScheme) return nullptr;
  header.remove_prefix(kScheme.size());
  const Identity* found = nullptr;
  for (const auto& [token, who] : tokens_) {
    if (SameBytes(token, header)) found = &who;
  }
  return found;
}

absl::StatusOr<std::unique_ptr<TokenFile>> TokenFile::Open(const std::string& path) {
  auto file = std::make_unique<TokenFile>();
  file->path_ = path;
  file->tokens_ = std::make_shared<const TokenSet>();
  const absl::StatusOr<std::function<void()>> take = file->Prepare();
  if (!take.ok()) return take.status();
  (*take)();
  return file;
}

std::shared_ptr<const TokenSet> TokenFile::tokens() const {
  std::lock_guard lock(mutex_);
  return tokens_;
}

absl::StatusOr<std::function<void()>> TokenFile::Prepare() {
  if (!on()) return std::function<void()>([] {});
  absl::StatusOr<TokenSet> loaded = TokenSet::Load(path_);
  if (!loaded.ok()) return loaded.status();
  return std::function<void()>([this, fresh = std::make_shared<const TokenSet>(*std::move(loaded))] {
    std::lock_guard lock(mutex_);
    tokens_ = fresh;
  });
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
  if (IsLoopback(address) || tls || insecure) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(flag), " ", std::string(address), " can be reached from other machines and ",
                   tokens ? "without TLS the tokens of --token-file can be read on the way" : "nothing protects it",
                   ": give --tls-cert and --tls-key, or listen on 127.0.0.1; --insecure listens all the same"));
}

}  // namespace duo
