// What rank 0 sends for an exchange with the disk: the sections that a session is cut into, and the plan as bytes.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "kernels/base/math.h"
#include "kernels/base/plain_bytes.h"
#include "runtime/kv/kv_io.h"

namespace duo {
namespace {

// The one list of fields, for both directions.
constexpr auto kFields = [](auto& p, auto visit) {
  return visit(p.kind) && visit(p.shared) && visit(p.dir) && visit(p.rings_file) && visit(p.ring) && visit(p.format) &&
         visit(p.tokens) && visit(p.pages) && visit(p.split_pages) && visit(p.sections) && visit(p.rings);
};

}  // namespace

std::string Serialize(const KvIoPlan& plan) { return PutFields(plan, kFields); }

absl::StatusOr<KvIoPlan> ParseKvIoPlan(std::string_view bytes) {
  KvIoPlan plan;
  if (!TakeFields(bytes, &plan, kFields)) return absl::DataLossError("a storage plan arrived damaged");
  return plan;
}

int64_t SectionBytes(const KvSection& section, int64_t page_bytes) {
  return section.count * (page_bytes + static_cast<int64_t>(sizeof(uint32_t)));
}

std::vector<KvSection> SectionsOf(const Partition& partition, int64_t begin, int64_t end, int64_t range_pages) {
  std::vector<KvSection> sections;
  auto add = [&](int layer, int head, int rank, int64_t first, int64_t last, int step) {
    if (first >= last) return;
    const int64_t count = CeilDiv(last - first, step);
    const auto pages = static_cast<int32_t>(count);
    sections.push_back({layer, head, static_cast<int32_t>(first), step, pages, rank, 0, 0, 1, 0, pages});
  };
  for (int64_t a = begin; a < end;) {
    const int64_t b = std::min(end, (a / range_pages + 1) * range_pages);
    for (int layer = 0; layer < static_cast<int>(partition.layers.size()); ++layer) {
      std::vector<int> written;  // whole heads; with more ranks than heads several ranks hold copies
      const std::vector<RankHeads>& ranks = partition.layers[layer];
      for (int rank = 0; rank < static_cast<int>(ranks.size()); ++rank) {
        for (int head : ranks[rank].whole) {
          if (std::find(written.begin(), written.end(), head) != written.end()) continue;
          written.push_back(head);
          add(layer, head, rank, a, b, 1);
        }
        for (const SplitPiece& piece : ranks[rank].split) {
          for (int slot = piece.first; slot < piece.last; ++slot) {
            const int64_t first = a + ((slot - a) % piece.of + piece.of) % piece.of;
            add(layer, piece.head, rank, first, b, piece.of);
          }
        }
      }
    }
    a = b;
  }
  return sections;
}

std::vector<KvRingSection> RingSectionsOf(const Partition& partition, int64_t ring_bytes) {
  std::vector<KvRingSection> rings;
  int64_t offset = 0;
  for (int layer = 0; layer < static_cast<int>(partition.layers.size()); ++layer) {
    std::vector<int> written;
    for (int rank = 0; rank < static_cast<int>(partition.layers[layer].size()); ++rank) {
      for (int head : partition.layers[layer][rank].streaming) {
        if (std::find(written.begin(), written.end(), head) != written.end()) continue;
        written.push_back(head);
        rings.push_back({layer, head, rank, 0, offset});
        offset += ring_bytes;
      }
    }
  }
  return rings;
}

std::string PageFileName(int generation, int64_t range) { return absl::StrFormat("%d-pages-%05d", generation, range); }

}  // namespace duo
