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

// One thread's room: pages as they stand in the file, and as the cache wants them.
struct Staging {
  std::vector<uint8_t> file, cache;
};

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

// Reads the pages of a section that are held here, and only those. On the CPU they are read to where they belong; for a
// GPU, or where they must be rounded, block by block through `staging`. `mutex` lets one thread at a time feed a GPU.
absl::Status ReadSection(const KvSection& s, const File& file, KvIoContext& c, Staging& staging, std::mutex& mutex,
                         int64_t* bytes_read) {
  constexpr int64_t kBlockBytes = 1 << 20;  // stays in the processor's cache from reading to checking
  std::vector<uint32_t> crcs;
  if (absl::Status r = ReadTable(s, file, c, &crcs); !r.ok()) return r;
  *bytes_read += s.count * static_cast<int64_t>(sizeof(uint32_t));
  const int64_t block = std::max<int64_t>(1, kBlockBytes / c.page_bytes), there = c.layout.page_bytes();
  const bool rounds = c.plan.format != c.layout.format;
  for (int i = s.from; i < s.to;) {
    const int run = RunOf(s, i, block, c);
    uint8_t* first = c.local.Page(s.layer, s.head, s.first + int64_t{i} * s.step);
    if (first != nullptr) {
      const bool direct = !rounds && !c.device.is_cuda();
      if (!direct) staging.file.resize(block * c.page_bytes);
      uint8_t* into = direct ? first : staging.file.data();
      if (absl::Status r = ReadPages(s, {i, run}, file, c.page_bytes, crcs, into); !r.ok()) return r;
      const uint8_t* ready = into;
      if (rounds) {
        staging.cache.resize(block * there);
        Round(into, run * c.page_bytes, staging.cache.data());
        ready = staging.cache.data();
      }
      if (!direct) {
        std::lock_guard lock(mutex);
        c.device.Upload(first, ready, run * there);
      }
      *bytes_read += run * c.page_bytes;
    }
    i += run;
  }
  return absl::OkStatus();
}

int64_t RingBytesInFile(const KvRingSection& r, const KvIoContext& c) {
  const bool rounds = c.plan.format != c.layout.format;
  return c.local.ring_bytes(r.layer) * (rounds ? 2 : 1);
}

absl::Status ReadRing(const KvRingSection& r, PlanFiles& files, std::vector<uint8_t>* bytes) {
  absl::StatusOr<const File*> file = files.Rings();
  if (!file.ok()) return file.status();
  if (absl::Status s = (*file)->Read(bytes->data(), bytes->size(), r.offset); !s.ok()) return s;
  if (Crc32c(bytes->data(), bytes->size()) == r.crc) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("%s: damaged at byte %d: the checksum of the ring of layer %d, head %d is wrong", (*file)->name(),
                      r.offset, r.layer, r.head));
}

void PlaceRing(const KvRingSection& r, const std::vector<uint8_t>& bytes, KvIoContext& c) {
  uint8_t* ring = c.local.Ring(r.layer, r.head);
  if (ring == nullptr) return;
  if (c.plan.format == c.layout.format) return c.device.Upload(ring, bytes.data(), bytes.size());
  std::vector<uint8_t> rounded(bytes.size() / 2);
  Round(bytes.data(), bytes.size(), rounded.data());
  c.device.Upload(ring, rounded.data(), rounded.size());
}

}  // namespace

absl::Status ReadOwn(KvIoContext& c) {
  PlanFiles files(c.files, c.plan, O_RDONLY);
  std::vector<const KvSection*> own;
  for (const KvSection& s : c.plan.sections) {
    if (c.local.HoldsAny(s)) own.push_back(&s);
  }
  for (const KvSection* s : own) {
    if (absl::StatusOr<const File*> file = files.Pages(*s); file.ok()) {
      (*file)->Expect((s->to - s->from) * c.page_bytes, s->offset + s->from * c.page_bytes);
    }
  }
  std::mutex feeding, mutex;
  absl::Status status;  // guarded by mutex, as is c.result
  std::vector<Staging> staging(c.device.pool().threads());
  c.device.pool().ParallelFor(static_cast<int64_t>(own.size()), [&](int64_t item, int thread) {
    const KvSection& s = *own[item];
    int64_t bytes = 0;
    absl::StatusOr<const File*> file = files.Pages(s);
    const absl::Status done = file.ok() ? ReadSection(s, **file, c, staging[thread], feeding, &bytes) : file.status();
    std::lock_guard lock(mutex);
    status.Update(done);
    c.result.bytes += bytes;
  });
  if (!status.ok()) return status;
  for (const KvRingSection& r : c.plan.rings) {
    if (c.local.Ring(r.layer, r.head) == nullptr) continue;
    std::vector<uint8_t> bytes(RingBytesInFile(r, c));
    if (absl::Status s = ReadRing(r, files, &bytes); !s.ok()) return s;
    PlaceRing(r, bytes, c);
    c.result.bytes += bytes.size();
  }
  return absl::OkStatus();
}

// A failure at rank 0 must not leave the others waiting: every section is exchanged in any case.
absl::Status ReadThroughLeader(KvIoContext& c) {
  const bool leader = c.comm.rank() == 0;
  const bool rounds = c.plan.format != c.layout.format;
  PlanFiles files(c.files, c.plan, O_RDONLY);
  absl::Status status;
  std::vector<uint8_t> bytes, rounded;
  std::vector<uint32_t> crcs;
  for (const KvSection& s : c.plan.sections) {
    const int pages = s.to - s.from;
    bytes.assign(pages * c.page_bytes, 0);
    if (leader && status.ok()) {
      absl::StatusOr<const File*> file = files.Pages(s);
      status = file.ok() ? ReadTable(s, **file, c, &crcs) : file.status();
      if (status.ok()) status = ReadPages(s, {s.from, pages}, **file, c.page_bytes, crcs, bytes.data());
      c.result.bytes += bytes.size() + crcs.size() * sizeof(uint32_t);
    }
    c.comm.Broadcast(bytes.data(), bytes.size(), 0);
    const int64_t there = c.layout.page_bytes();
    const uint8_t* ready = bytes.data();
    if (rounds) {
      rounded.resize(pages * there);
      Round(bytes.data(), bytes.size(), rounded.data());
      ready = rounded.data();
    }
    for (int i = s.from; i < s.to;) {
      uint8_t* first = c.local.Page(s.layer, s.head, s.first + int64_t{i} * s.step);
      const int run = RunOf(s, i, pages, c);
      if (first != nullptr) c.device.Upload(first, ready + (i - s.from) * there, run * there);
      i += run;
    }
  }
  for (const KvRingSection& r : c.plan.rings) {
    bytes.assign(RingBytesInFile(r, c), 0);
    if (leader && status.ok()) status = ReadRing(r, files, &bytes);
    c.comm.Broadcast(bytes.data(), bytes.size(), 0);
    PlaceRing(r, bytes, c);
  }
  return status;
}

}  // namespace duo
