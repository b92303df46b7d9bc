#include "runtime/saved/section_cover.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_format.h"
#include "kernels/base/math.h"
#include "runtime/saved/session_names.h"

namespace duo {

absl::StatusOr<std::vector<KvSection>> CoverPages(const SessionManifest& m, const std::string& dir) {
  const int64_t pages = CeilDiv(m.tokens, kPageTokens);
  std::vector<std::vector<int32_t>> of_head(m.retrieval.size());  // sections
  for (size_t i = 0; i < m.sections.size(); ++i) {
    const KvSection& s = m.sections[i];
    of_head[int64_t{s.layer} * m.kv_heads + s.head].push_back(static_cast<int32_t>(i));
  }
  std::vector<KvSection> cover;
  std::vector<int32_t> owner;
  for (size_t h = 0; h < of_head.size(); ++h) {
    if (m.retrieval[h] != '1') continue;
    int64_t most = 0;  // pages that these sections can hold: looked at before memory is taken for that many
    for (int32_t i : of_head[h]) most += m.sections[i].count;
    const auto missing = [&](int64_t page) {
      return absl::DataLossError(absl::StrFormat("%s/%s: damaged: page %d of layer %d, head %d is missing", dir,
                                                 kManifestName, page, h / m.kv_heads, h % m.kv_heads));
    };
    if (most < pages) return missing(most);
    owner.assign(pages, -1);
    for (int32_t i : of_head[h]) {
      const KvSection& s = m.sections[i];
      for (int k = 0; k < s.count; ++k) {
        if (const int64_t p = s.first + int64_t{k} * s.step; p < pages) owner[p] = i;
      }
    }
    const auto hole = std::find(owner.begin(), owner.end(), -1);
    if (hole != owner.end()) return missing(hole - owner.begin());
    for (int32_t i : of_head[h]) {
      KvSection s = m.sections[i];
      const auto counts = [&](int k) {
        const int64_t p = s.first + int64_t{k} * s.step;
        return p < pages && owner[p] == i;
      };
      for (int k = 0; k < s.count; ++k) {
        if (!counts(k)) continue;
        s.from = k;
        while (k < s.count && counts(k)) ++k;
        s.to = k;
        cover.push_back(s);
      }
    }
  }
  std::sort(cover.begin(), cover.end(), [](const KvSection& a, const KvSection& b) {
    return std::make_tuple(a.generation, a.first / kRangePages, a.offset, a.from) <
           std::make_tuple(b.generation, b.first / kRangePages, b.offset, b.from);
  });
  return cover;
}

}  // namespace duo
