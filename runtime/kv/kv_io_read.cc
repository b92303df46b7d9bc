// Reading pages and rings back (kv_io.h).
#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "kernels/base/dtype.h"
#include "runtime/kv/kv_io_context.h"

namespace duo {
namespace {

absl::Status Damaged(const std::string& file, int64_t offset, const KvSection& s, const std::string& what) {
  return absl::DataLossError(absl::StrFormat("%s: damaged at byte %d: the checksum of %s of layer %d, head %d is wrong",
                                             file, offset, what, s.layer, s.head));
}

// f32 as bf16, `bytes` of them: pages and rings of both lie in the same order.
void Round(const uint8_t* f32, int64_t bytes, uint8_t* bf) {
  for (int64_t i = 0; i < bytes / 4; ++i) {
    float value;
    std::memcpy(&value, f32 + 4 * i, sizeof value);
    const bf16 rounded = ToBf16(value);
    std::memcpy(bf + 2 * i, &rounded, sizeof rounded);
  }
}

absl::Status ReadTable(const KvSection& s, const File& file, const KvIoContext& c, std::vector<uint32_t>* crcs) {
  crcs->resize(s.count);
  const int64_t bytes = s.count * static_cast<int64_t>(sizeof(uint32_t)), offset = s.offset + s.count * c.page_bytes;
  if (absl::Status r = file.Read(crcs->data(), bytes, offset); !r.ok()) return r;
  return Crc32c(crcs->data(), bytes) == s.crc ? absl::OkStatus() : Damaged(file.name(), offset, s, "the checksums");
}

struct PageRun {
  int first, count;  // of a section's pages
};

// Reads pages of a section, each checked before it counts. page_bytes: in the file.
absl::Status ReadPages(const KvSection& s, PageRun pages, const File& file, int64_t page_bytes,
                       const std::vector<uint32_t>& crcs, uint8_t* into) {
  if (absl::Status r = file.Read(into, pages.count * page_bytes, s.offset + pages.first * page_bytes); !r.ok())
    return r;
  for (int i = pages.first; i < pages.first + pages.count; ++i, into += page_bytes) {
    if (Crc32c(into, page_bytes) == crcs[i]) continue;
    return Damaged(file.name(), s.offset + i * page_bytes, s, absl::StrCat("page ", s.first + int64_t{i} * s.step));
  }
  return absl::OkStatus();
}

// How many pages of a section, from i on and at most `most`, are neighbours in the file and in memory.
int RunOf(const KvSection& s, int i, int64_t most, const KvIoContext& c) {
  const uint8_t* first = c.local.Page(s.layer, s.head, s.first + int64_t{i} * s.step);
  int run = 1;
  while (first != nullptr && run < most && i + run < s.to &&
         c.local.Page(s.layer, s.head, s.first + int64_t{i + run} * s.step) == first + run * c.layout.page_bytes()) {
    ++run;
  }
  return run;
}

// How many pages of a section, from i on and at most `most`, this rank wants in a row, or does not want.
int WantedOf(const KvSection& s, int i, int64_t most, const KvIoContext& c, bool* wanted) {
  const auto held = [&](int j) {
    return !c.plan.shared || c.local.Page(s.layer, s.head, s.first + int64_t{j} * s.step) != nullptr;
  };
  *wanted = held(i);
  int run = 1;
  while (run < most && i + run < s.to && held(i + run) == *wanted) ++run;
  return run;
}

// Reads the pages of a section that are wanted here, and only those; page i to where page i - from stands.
absl::Status ReadSection(const KvSection& s, const File& file, const KvIoContext& c, Staged* staged,
                         int64_t* bytes_read) {
  constexpr int64_t kBlockBytes = 1 << 20;  // stays in the processor's cache from reading to checking
  std::vector<uint32_t> crcs;
  if (absl::Status r = ReadTable(s, file, c, &crcs); !r.ok()) return r;
  *bytes_read += s.count * static_cast<int64_t>(sizeof(uint32_t));
  const int64_t block = std::max<int64_t>(1, kBlockBytes / c.page_bytes), there = c.layout.page_bytes();
  const bool rounds = c.plan.format != c.layout.format;
  std::vector<uint8_t> before(rounds ? block * c.page_bytes : 0);
  staged->Make((s.to - s.from) * there);
  for (int i = s.from; i < s.to;) {
    bool wanted = false;
    const int run = WantedOf(s, i, block, c, &wanted);
    if (wanted) {
      uint8_t* const place = staged->bytes.get() + (i - s.from) * there;
      if (absl::Status r = ReadPages(s, {i, run}, file, c.page_bytes, crcs, rounds ? before.data() : place); !r.ok())
        return r;
      if (rounds) Round(before.data(), run * c.page_bytes, place);
      *bytes_read += run * c.page_bytes;
    }
    i += run;
  }
  return absl::OkStatus();
}

absl::Status ReadRing(const KvRingSection& r, PlanFiles& files, const KvIoContext& c, Staged* staged,
                      int64_t* bytes_read) {
  const bool rounds = c.plan.format != c.layout.format;
  const int64_t there = c.local.SavedRing(r.layer).ring_bytes(), bytes = there * (rounds ? 2 : 1);
  absl::StatusOr<const File*> file = files.Rings();
  if (!file.ok()) return file.status();
  std::vector<uint8_t> before(bytes);
  if (absl::Status s = (*file)->Read(before.data(), bytes, r.offset); !s.ok()) return s;
  if (Crc32c(before.data(), bytes) != r.crc) {
    return absl::DataLossError(
        absl::StrFormat("%s: damaged at byte %d: the checksum of the ring of layer %d, head %d is wrong",
                        (*file)->name(), r.offset, r.layer, r.head));
  }
  staged->Make(there);
  if (rounds) {
    Round(before.data(), bytes, staged->bytes.get());
  } else {
    std::memcpy(staged->bytes.get(), before.data(), bytes);
  }
  *bytes_read += bytes;
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadStaged(KvIoContext& c, ThreadPool& pool) {
  if (!c.plan.shared && !c.leader()) return absl::OkStatus();
  PlanFiles files(c.files, c.plan, O_RDONLY);
  std::vector<size_t> wanted;
  for (size_t i = 0; i < c.plan.sections.size(); ++i) {
    if (!c.plan.shared || c.local.HoldsAny(c.plan.sections[i])) wanted.push_back(i);
  }
  for (size_t i : wanted) {
    const KvSection& s = c.plan.sections[i];
    if (absl::StatusOr<const File*> file = files.Pages(s); file.ok()) {
      (*file)->Expect((s.to - s.from) * c.page_bytes, s.offset + s.from * c.page_bytes);
    }
  }
  std::mutex mutex;
  absl::Status status;  // guarded by mutex, as is c.result
  pool.ParallelFor(static_cast<int64_t>(wanted.size()), [&](int64_t item, int) {
    const size_t i = wanted[item];
    int64_t bytes = 0;
    absl::StatusOr<const File*> file = files.Pages(c.plan.sections[i]);
    const absl::Status done =
        file.ok() ? ReadSection(c.plan.sections[i], **file, c, &c.sections[i], &bytes) : file.status();
    std::lock_guard lock(mutex);
    status.Update(done);
    c.result.bytes += bytes;
  });
  for (size_t i = 0; i < c.plan.rings.size() && status.ok(); ++i) {
    const KvRingSection& r = c.plan.rings[i];
    if (c.plan.shared && c.local.Ring(r.layer, r.head) == nullptr) continue;
    status = ReadRing(r, files, c, &c.rings[i], &c.result.bytes);
  }
  return status;
}

void PlaceStaged(KvIoContext& c) {
  const auto share = [&c](Staged* staged, int64_t bytes) {
    if (c.plan.shared || c.comm.size() == 1) return;
    if (!c.leader()) staged->Make(bytes);
    c.comm.Broadcast(staged->bytes.get(), bytes, 0);
  };
  for (size_t n = 0; n < c.plan.sections.size(); ++n) {
    const KvSection& s = c.plan.sections[n];
    const int64_t there = c.layout.page_bytes();
    share(&c.sections[n], (s.to - s.from) * there);
    if (c.sections[n].bytes == nullptr) continue;
    for (int i = s.from; i < s.to;) {
      uint8_t* first = c.local.Page(s.layer, s.head, s.first + int64_t{i} * s.step);
      const int run = RunOf(s, i, s.to - i, c);
      if (first != nullptr) c.device.Upload(first, c.sections[n].bytes.get() + (i - s.from) * there, run * there);
      i += run;
    }
    c.sections[n] = {};
  }
  for (size_t n = 0; n < c.plan.rings.size(); ++n) {
    const KvRingSection& r = c.plan.rings[n];
    const RingKv &kv = c.local.cache.layers()[r.layer].ring, saved = c.local.SavedRing(r.layer);
    share(&c.rings[n], saved.ring_bytes());
    uint8_t* ring = c.local.Ring(r.layer, r.head);
    if (ring == nullptr) continue;
    if (kv.slack == 0) {
      c.device.Upload(ring, c.rings[n].bytes.get(), c.rings[n].size);
      continue;
    }
    std::vector<uint8_t> held(kv.ring_bytes());
    RelayRing(saved, c.rings[n].bytes.get(), kv, held.data(), c.plan.tokens);
    c.device.Upload(ring, held.data(), kv.ring_bytes());
  }
}

}  // namespace duo
