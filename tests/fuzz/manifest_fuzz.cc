// The manifest of a saved session: any bytes, and any bytes with the right checksum behind them, which the parser's
// first look would otherwise nearly always refuse. Whatever is accepted is consistent and survives writing and reading.
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "runtime/files/crc32c.h"
#include "runtime/saved/session_manifest.h"

namespace duo {
namespace {

void CheckSections(const SessionManifest& m) {
  for (const KvSection& s : m.sections) {
    DUO_CHECK(s.layer >= 0 && s.layer < m.layers && s.head >= 0 && s.head < m.kv_heads);
    DUO_CHECK(s.first >= 0 && s.count >= 1 && s.count <= kRangePages && s.offset >= 0);
    DUO_CHECK_EQ(s.first / kRangePages, (s.first + int64_t{s.step} * (s.count - 1)) / kRangePages);
    DUO_CHECK(s.generation >= 1 && s.generation <= m.generation);
  }
  for (const KvRingSection& r : m.rings) {
    DUO_CHECK(r.layer >= 0 && r.layer < m.layers && r.head >= 0 && r.head < m.kv_heads && r.offset >= 0);
  }
}

// The sections' own file, of a session of two layers and two heads.
void CheckTable(std::string_view bytes) {
  SessionManifest m;
  m.layers = m.kv_heads = 2;
  m.generation = 9;
  m.retrieval = "1001";
  if (!ParseSections(bytes, "sections", &m).ok()) return;
  CheckSections(m);
  DUO_CHECK(FormatSections(m) == bytes);
}

void Check(std::string_view text) {
  const auto manifest = ParseManifest(text, "manifest");
  if (!manifest.ok()) {
    DUO_CHECK(manifest.status().message().substr(0, 9) == "manifest:");
    return;
  }
  DUO_CHECK(manifest->tokens >= 0 && manifest->tokens <= manifest->max_tokens);
  DUO_CHECK_EQ(manifest->retrieval.size(), size_t(manifest->layers) * size_t(manifest->kv_heads));
  CheckSections(*manifest);
  const std::string written = FormatManifest(*manifest);
  const auto again = ParseManifest(written, "again");
  DUO_CHECK_MSG(again.ok(), std::string(again.status().message()));
  DUO_CHECK(FormatManifest(*again) == written);
}

}  // namespace
}  // namespace duo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  duo::CheckTable(text);
  duo::Check(text);
  duo::Check(absl::StrFormat("%scrc32c %08x\n", text, duo::Crc32c(text.data(), text.size())));
  return 0;
}
