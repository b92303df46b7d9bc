#include "launcher/terminal/sparse_text.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace duo {
namespace {

std::string InAudits(int64_t audits) { return absl::StrFormat(" in %d %s", audits, audits == 1 ? "audit" : "audits"); }

}  // namespace

std::string ReadSparselyText(const SparseReport& read) {
  if (!read.sparse()) return "";
  std::string text = absl::StrCat(", NOT exactly: --prefill-sparsity ", read.setting);
  if (read.audits == 0) return text;
  absl::StrAppendFormat(&text, " kept %.2f %% of attention%s", 100 * read.mass, InAudits(read.audits));
  return text;
}

std::string WrittenSparselyText(const DecodeReport& written) {
  if (!written.sparse()) return "";
  std::string text =
      absl::StrFormat(", NOT exactly: --decode-sparsity %s, %d %s from %.1f %% of the pages", written.setting,
                      written.listed_tokens, written.listed_tokens == 1 ? "token" : "tokens", 100 * written.density);
  if (written.audits == 0) return text;
  absl::StrAppendFormat(&text, ", which kept %.2f %% of attention (%.2f %% in the worst head)%s", 100 * written.mass,
                        100 * written.least_mass, InAudits(written.audits));
  return text;
}

}  // namespace duo
