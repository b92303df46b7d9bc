#include "runtime/saved/session_sections.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace duo {
namespace {

template <typename T>
void Put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}
template <typename T>
T Take(std::string_view* in) {
  T value;
  std::copy_n(in->data(), sizeof value, reinterpret_cast<char*>(&value));
  in->remove_prefix(sizeof value);
  return value;
}
constexpr size_t kSectionBytes = 6 * 4 + 8 + 4, kRingBytes = 2 * 4 + 8 + 4;

}  // namespace

std::string Contradiction(const SessionManifest& m) {
  for (const KvSection& s : m.sections) {
    const bool in_range = s.layer >= 0 && s.layer < m.layers && s.head >= 0 && s.head < m.kv_heads && s.first >= 0 &&
                          s.step >= 1 && s.step <= 4096 && s.count >= 1 && s.count <= kRangePages && s.offset >= 0 &&
                          s.offset < kMostBytes && s.generation >= 1 && s.generation <= m.generation;
    if (!in_range || s.first / kRangePages != (s.first + int64_t{s.step} * (s.count - 1)) / kRangePages) {
      return "its sections contradict each other";
    }
  }
  std::vector<uint8_t> seen(m.retrieval.size());
  for (const KvRingSection& r : m.rings) {
    if (r.layer < 0 || r.layer >= m.layers || r.head < 0 || r.head >= m.kv_heads || r.offset < 0 ||
        r.offset >= kMostBytes) {
      return "its rings contradict its sizes";
    }
    uint8_t& ring = seen[int64_t{r.layer} * m.kv_heads + r.head];
    if (ring++ != 0) {
      return absl::StrFormat("it has two rings of layer %d, head %d", r.layer, r.head);
    }
  }
  return "";
}

std::string FormatSections(const SessionManifest& m) {
  std::string out;
  Put(&out, static_cast<int64_t>(m.sections.size()));
  Put(&out, static_cast<int64_t>(m.rings.size()));
  for (const KvSection& s : m.sections) {
    for (const int32_t v : {s.layer, s.head, s.first, s.step, s.count, s.generation}) Put(&out, v);
    Put(&out, s.offset);
    Put(&out, s.crc);
  }
  for (const KvRingSection& r : m.rings) {
    Put(&out, r.layer);
    Put(&out, r.head);
    Put(&out, r.offset);
    Put(&out, r.crc);
  }
  return out;
}

absl::Status ParseSections(std::string_view bytes, const std::string& file, SessionManifest* m) {
  auto damaged = [&](const std::string& what) { return absl::DataLossError(absl::StrCat(file, ": damaged: ", what)); };
  if (bytes.size() < 16) return damaged("it is too short");
  const auto sections = Take<int64_t>(&bytes), rings = Take<int64_t>(&bytes);
  const auto most = static_cast<int64_t>(bytes.size());
  if (sections < 0 || sections > most || rings < 0 || rings > most ||
      sections * static_cast<int64_t>(kSectionBytes) + rings * static_cast<int64_t>(kRingBytes) != most) {
    return damaged("its length does not fit its numbers");
  }
  m->sections.resize(sections);
  for (KvSection& s : m->sections) {
    for (int32_t* v : {&s.layer, &s.head, &s.first, &s.step, &s.count, &s.generation}) *v = Take<int32_t>(&bytes);
    s.offset = Take<int64_t>(&bytes);
    s.crc = Take<uint32_t>(&bytes);
  }
  m->rings.resize(rings);
  for (KvRingSection& r : m->rings) {
    r.layer = Take<int32_t>(&bytes);
    r.head = Take<int32_t>(&bytes);
    r.offset = Take<int64_t>(&bytes);
    r.crc = Take<uint32_t>(&bytes);
  }
  const std::string what = Contradiction(*m);
  return what.empty() ? absl::OkStatus() : damaged(what);
}

}  // namespace duo
