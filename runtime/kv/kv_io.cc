#include "runtime/kv/kv_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "runtime/files/crc32c.h"
#include "runtime/files/file.h"

namespace duo {
namespace {

// The files of a plan, opened when first used. Thread-safe.
class Files {
 public:
  Files(const KvIoPlan& plan, int flags) : plan_(plan), flags_(flags) {}
  absl::StatusOr<const File*> Pages(const KvSection& s) {
    return Get(PageFileName(s.generation, s.first / kRangePages));
  }
  absl::StatusOr<const File*> Rings() { return Get(plan_.rings_file); }
  absl::Status SyncAll() {
    for (auto& [name, file] : open_) {
      if (absl::Status s = file.Sync(); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<const File*> Get(const std::string& name) {
    std::lock_guard lock(mutex_);
    auto found = open_.find(name);
    if (found == open_.end()) {
      absl::StatusOr<File> file = File::Open(plan_.dir + "/" + name, flags_);
      if (!file.ok()) return file.status();
      found = open_.emplace(name, std::move(*file)).first;
    }
    return &found->second;
  }
  const KvIoPlan& plan_;
  int flags_;
  std::mutex mutex_;
  std::map<std::string, File> open_;
};

// --- Where a head's pages and rings are on this rank.
struct Local {
  const RankShard& shard;
  const KvCache& cache;
  const KvIoPlan& plan;

  // Device address of page p of (layer, KV head); null when it is not held here or lies beyond the session.
  uint8_t* Page(int layer, int head, int64_t p) const {
    for (const PagedKv& kv : cache.layers()[layer].paged) {
      for (int h = 0; h < kv.num_heads; ++h) {
        if (shard.layers[layer][kv.first_head + h].kv_head != head || !kv.holds(p)) continue;
        const std::vector<int32_t>& ids = kv.split ? plan.split_pages : plan.pages;
        const int64_t group = p / kv.slots;
        if (group >= static_cast<int64_t>(ids.size())) return nullptr;
        return kv.base + h * kv.head_stride + ids[group] * kv.id_stride() +
               (p % kv.slots - kv.first_slot) * kv.page.page_bytes();
      }
    }
    return nullptr;
  }
  bool HoldsAny(const KvSection& s) const {
    for (int i = 0; i < s.count; ++i) {
      if (Page(s.layer, s.head, s.first + int64_t{i} * s.step) != nullptr) return true;
    }
    return false;
  }
  uint8_t* Ring(int layer, int head) const {
    const RingKv& kv = cache.layers()[layer].ring;
    for (int h = 0; h < kv.num_heads; ++h) {
      if (shard.layers[layer][kv.first_head + h].kv_head == head) return kv.k_at(plan.ring, h, 0);
    }
    return nullptr;
  }
  int64_t ring_bytes(int layer) const { return cache.layers()[layer].ring.ring_bytes(); }
};

PageLayout LayoutOf(const KvCache& cache) {
  const HeadShape& shape = cache.layers()[0].shape;
  return {cache.sizes().format, shape.head_dim};
}

// Slots of a page beyond the session's tokens hold whatever was there before: not to be written to a file.
void ZeroTail(uint8_t* page, const PageLayout& layout, int64_t first_token, int64_t tokens) {
  const int64_t used = std::clamp<int64_t>(tokens - first_token, 0, kPageTokens);
  if (used == kPageTokens) return;
  const int from = static_cast<int>(used), rest = kPageTokens - from;
  std::memset(page + layout.k_codes(from), 0, int64_t{rest} * layout.code_bytes());
  std::memset(page + layout.v_codes(from), 0, int64_t{rest} * layout.code_bytes());
  std::memset(page + layout.k_params(from), 0, int64_t{rest} * layout.param_bytes());
  std::memset(page + layout.v_params(from), 0, int64_t{rest} * layout.param_bytes());
}

// A section as it stands in the file: pages, then their CRCs.
void FillSection(const KvSection& s, const Local& local, Device& device, const PageLayout& layout,
                 std::vector<uint8_t>* bytes) {
  const int64_t page_bytes = layout.page_bytes();
  bytes->resize(SectionBytes(s, page_bytes));
  for (int i = 0; i < s.count; ++i) {
    const int64_t p = s.first + int64_t{i} * s.step;
    uint8_t* page = bytes->data() + i * page_bytes;
    const uint8_t* source = local.Page(s.layer, s.head, p);
    DUO_CHECK(source != nullptr);
    device.Download(page, source, page_bytes);
    ZeroTail(page, layout, p * kPageTokens, local.plan.tokens);
    const uint32_t crc = Crc32c(page, page_bytes);
    std::memcpy(bytes->data() + s.count * page_bytes + i * sizeof crc, &crc, sizeof crc);
  }
}
uint32_t TableCrc(const KvSection& s, const std::vector<uint8_t>& bytes, int64_t page_bytes) {
  return Crc32c(bytes.data() + s.count * page_bytes, s.count * sizeof(uint32_t));
}

absl::Status Damaged(const std::string& file, int64_t offset, const KvSection& s, const std::string& what) {
  return absl::DataLossError(absl::StrFormat("%s: damaged at byte %d: the checksum of %s of layer %d, head %d is wrong",
                                             file, offset, what, s.layer, s.head));
}

// Checks a section that was read whole.
absl::Status CheckSection(const KvSection& s, const std::vector<uint8_t>& bytes, int64_t page_bytes,
                          const std::string& file) {
  if (TableCrc(s, bytes, page_bytes) != s.crc) {
    return Damaged(file, s.offset + s.count * page_bytes, s, "the checksums");
  }
  for (int i = 0; i < s.count; ++i) {
    uint32_t crc;
    std::memcpy(&crc, bytes.data() + s.count * page_bytes + i * sizeof crc, sizeof crc);
    if (Crc32c(bytes.data() + i * page_bytes, page_bytes) != crc) {
      return Damaged(file, s.offset + i * page_bytes, s, absl::StrCat("page ", s.first + int64_t{i} * s.step));
    }
  }
  return absl::OkStatus();
}

// Copies the pages that are held here to their places; pages that are neighbours in both go in one copy.
void PlaceSection(const KvSection& s, const std::vector<uint8_t>& bytes, int64_t page_bytes, const Local& local,
                  Device& device) {
  for (int i = 0; i < s.count;) {
    uint8_t* first = local.Page(s.layer, s.head, s.first + int64_t{i} * s.step);
    int run = 1;
    while (first != nullptr && i + run < s.count &&
           local.Page(s.layer, s.head, s.first + int64_t{i + run} * s.step) == first + run * page_bytes) {
      ++run;
    }
    if (first != nullptr) device.Upload(first, bytes.data() + i * page_bytes, run * page_bytes);
    i += run;
  }
}

struct Context {
  const KvIoPlan& plan;
  Device& device;
  Communicator& comm;
  Local local;
  PageLayout layout;
  int64_t page_bytes;
  KvIoResult result;
};

// --- Every rank for itself.
absl::Status WriteOwn(Context& c) {
  Files files(c.plan, O_WRONLY | O_CREAT);
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < c.plan.sections.size(); ++i) {
    const KvSection& s = c.plan.sections[i];
    if (s.rank != c.comm.rank()) continue;
    absl::StatusOr<const File*> file = files.Pages(s);
    if (!file.ok()) return file.status();
    FillSection(s, c.local, c.device, c.layout, &bytes);
    if (absl::Status w = (*file)->Write(bytes.data(), bytes.size(), s.offset); !w.ok()) return w;
    c.result.section_crcs[i] = TableCrc(s, bytes, c.page_bytes);
    c.result.bytes += bytes.size();
  }
  for (size_t i = 0; i < c.plan.rings.size(); ++i) {
    const KvRingSection& r = c.plan.rings[i];
    if (r.rank != c.comm.rank()) continue;
    absl::StatusOr<const File*> file = files.Rings();
    if (!file.ok()) return file.status();
    bytes.resize(c.local.ring_bytes(r.layer));
    const uint8_t* ring = c.local.Ring(r.layer, r.head);
    DUO_CHECK(ring != nullptr);
    c.device.Download(bytes.data(), ring, bytes.size());
    if (absl::Status w = (*file)->Write(bytes.data(), bytes.size(), r.offset); !w.ok()) return w;
    c.result.ring_crcs[i] = Crc32c(bytes.data(), bytes.size());
    c.result.bytes += bytes.size();
  }
  return files.SyncAll();
}

absl::Status ReadRing(const KvRingSection& r, Files& files, std::vector<uint8_t>* bytes) {
  absl::StatusOr<const File*> file = files.Rings();
  if (!file.ok()) return file.status();
  if (absl::Status s = (*file)->Read(bytes->data(), bytes->size(), r.offset); !s.ok()) return s;
  if (Crc32c(bytes->data(), bytes->size()) == r.crc) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("%s: damaged at byte %d: the checksum of the ring of layer %d, head %d is wrong", (*file)->name(),
                      r.offset, r.layer, r.head));
}

// Reads the pages of a section that are held here, and only those, each checked before it counts. On the CPU they are
// read to where they belong; for a GPU block by block through `staging`, and `mutex` lets one thread at a time feed it.
absl::Status ReadSection(const KvSection& s, const File& file, Context& c, std::vector<uint8_t>& staging,
                         std::mutex& mutex, int64_t* bytes_read) {
  constexpr int64_t kBlockBytes = 1 << 20;  // stays in the processor's cache from reading to checking
  std::vector<uint32_t> crcs(s.count);
  const int64_t table_bytes = s.count * static_cast<int64_t>(sizeof(uint32_t));
  const int64_t table_offset = s.offset + s.count * c.page_bytes;
  if (absl::Status r = file.Read(crcs.data(), table_bytes, table_offset); !r.ok()) return r;
  if (Crc32c(crcs.data(), table_bytes) != s.crc) return Damaged(file.name(), table_offset, s, "the checksums");
  *bytes_read += table_bytes;
  const int64_t block = std::max<int64_t>(1, kBlockBytes / c.page_bytes);
  for (int i = 0; i < s.count;) {
    uint8_t* first = c.local.Page(s.layer, s.head, s.first + int64_t{i} * s.step);
    int run = 1;  // pages that are neighbours in the file and in memory
    while (first != nullptr && run < block && i + run < s.count &&
           c.local.Page(s.layer, s.head, s.first + int64_t{i + run} * s.step) == first + run * c.page_bytes) {
      ++run;
    }
    if (first != nullptr) {
      if (c.device.is_cuda()) staging.resize(block * c.page_bytes);
      uint8_t* into = c.device.is_cuda() ? staging.data() : first;
      if (absl::Status r = file.Read(into, run * c.page_bytes, s.offset + i * c.page_bytes); !r.ok()) return r;
      for (int j = 0; j < run; ++j) {
        if (Crc32c(into + j * c.page_bytes, c.page_bytes) == crcs[i + j]) continue;
        return Damaged(file.name(), s.offset + (i + j) * c.page_bytes, s,
                       absl::StrCat("page ", s.first + int64_t{i + j} * s.step));
      }
      if (into != first) {
        std::lock_guard lock(mutex);
        c.device.Upload(first, into, run * c.page_bytes);
      }
      *bytes_read += run * c.page_bytes;
    }
    i += run;
  }
  return absl::OkStatus();
}

absl::Status ReadOwn(Context& c) {
  Files files(c.plan, O_RDONLY);
  std::vector<const KvSection*> own;
  for (const KvSection& s : c.plan.sections) {
    if (c.local.HoldsAny(s)) own.push_back(&s);
  }
  for (const KvSection* s : own) {
    if (absl::StatusOr<const File*> file = files.Pages(*s); file.ok()) {
      (*file)->Expect(SectionBytes(*s, c.page_bytes), s->offset);
    }
  }
  std::mutex feeding, mutex;
  absl::Status status;  // guarded by mutex, as is c.result
  std::vector<std::vector<uint8_t>> staging(c.device.pool().threads());
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
    uint8_t* ring = c.local.Ring(r.layer, r.head);
    if (ring == nullptr) continue;
    std::vector<uint8_t> bytes(c.local.ring_bytes(r.layer));
    if (absl::Status s = ReadRing(r, files, &bytes); !s.ok()) return s;
    c.device.Upload(ring, bytes.data(), bytes.size());
    c.result.bytes += bytes.size();
  }
  return absl::OkStatus();
}

// --- Rank 0 for all. A failure at rank 0 must not leave the others waiting: every section is exchanged in any case.
absl::Status WriteThroughLeader(Context& c) {
  const bool leader = c.comm.rank() == 0;
  Files files(c.plan, O_WRONLY | O_CREAT);
  absl::Status status;
  std::vector<uint8_t> bytes;
  auto write = [&](absl::StatusOr<const File*> file, int64_t offset) {
    if (!file.ok()) {
      status.Update(file.status());
    } else {
      status.Update((*file)->Write(bytes.data(), bytes.size(), offset));
    }
    c.result.bytes += bytes.size();
  };
  for (size_t i = 0; i < c.plan.sections.size(); ++i) {
    const KvSection& s = c.plan.sections[i];
    bytes.resize(SectionBytes(s, c.page_bytes));
    if (s.rank == c.comm.rank()) FillSection(s, c.local, c.device, c.layout, &bytes);
    c.comm.Broadcast(bytes.data(), bytes.size(), s.rank);
    c.result.section_crcs[i] = TableCrc(s, bytes, c.page_bytes);
    if (leader && status.ok()) write(files.Pages(s), s.offset);
  }
  for (size_t i = 0; i < c.plan.rings.size(); ++i) {
    const KvRingSection& r = c.plan.rings[i];
    bytes.resize(c.local.ring_bytes(r.layer));
    if (r.rank == c.comm.rank()) c.device.Download(bytes.data(), c.local.Ring(r.layer, r.head), bytes.size());
    c.comm.Broadcast(bytes.data(), bytes.size(), r.rank);
    c.result.ring_crcs[i] = Crc32c(bytes.data(), bytes.size());
    if (leader && status.ok()) write(files.Rings(), r.offset);
  }
  if (leader && status.ok()) status = files.SyncAll();
  return status;
}

absl::Status ReadThroughLeader(Context& c) {
  const bool leader = c.comm.rank() == 0;
  Files files(c.plan, O_RDONLY);
  absl::Status status;
  std::vector<uint8_t> bytes;
  for (const KvSection& s : c.plan.sections) {
    bytes.assign(SectionBytes(s, c.page_bytes), 0);
    if (leader && status.ok()) {
      absl::StatusOr<const File*> file = files.Pages(s);
      status = file.ok() ? (*file)->Read(bytes.data(), bytes.size(), s.offset) : file.status();
      if (status.ok()) status = CheckSection(s, bytes, c.page_bytes, (*file)->name());
      c.result.bytes += bytes.size();
    }
    c.comm.Broadcast(bytes.data(), bytes.size(), 0);
    PlaceSection(s, bytes, c.page_bytes, c.local, c.device);
  }
  for (const KvRingSection& r : c.plan.rings) {
    bytes.assign(c.local.ring_bytes(r.layer), 0);
    if (leader && status.ok()) status = ReadRing(r, files, &bytes);
    c.comm.Broadcast(bytes.data(), bytes.size(), 0);
    if (uint8_t* ring = c.local.Ring(r.layer, r.head); ring != nullptr) {
      c.device.Upload(ring, bytes.data(), bytes.size());
    }
  }
  return status;
}

// Each rank has the CRCs of what it wrote; after this every rank has all.
template <typename Section>
void ShareCrcs(Communicator& comm, const std::vector<Section>& sections, std::vector<uint32_t>* crcs) {
  const size_t n = crcs->size();
  if (comm.size() == 1 || n == 0) return;
  std::vector<uint32_t> all(n * comm.size());
  comm.AllGatherHost(all.data(), crcs->data(), n * sizeof(uint32_t));
  for (size_t i = 0; i < n; ++i) (*crcs)[i] = all[sections[i].rank * n + i];
}

}  // namespace

absl::StatusOr<KvIoResult> RunKvIo(const KvIoPlan& plan, Device& device, Communicator& comm, const RankShard& shard,
                                   const KvCache& cache) {
  const PageLayout layout = LayoutOf(cache);
  Context c{plan, device, comm, Local{shard, cache, plan}, layout, layout.page_bytes(), {}};
  c.result.section_crcs.assign(plan.sections.size(), 0);
  c.result.ring_crcs.assign(plan.rings.size(), 0);
  absl::Status status;
  if (plan.kind == KvIoKind::kProbe) {
    const int32_t mine = access((plan.dir + "/" + plan.rings_file).c_str(), R_OK) == 0 ? 1 : 0;
    std::vector<int32_t> all(comm.size());
    comm.AllGatherHost(all.data(), &mine, sizeof mine);
    c.result.visible = std::find(all.begin(), all.end(), 0) == all.end();
  } else if (plan.kind == KvIoKind::kWrite) {
    status = plan.shared ? WriteOwn(c) : WriteThroughLeader(c);
  } else {
    status = plan.shared ? ReadOwn(c) : ReadThroughLeader(c);
    device.Synchronize();
  }
  if (comm.size() > 1) {
    status = Agree(comm, status);
    if (status.ok() && plan.shared) {
      ShareCrcs(comm, plan.sections, &c.result.section_crcs);
      ShareCrcs(comm, plan.rings, &c.result.ring_crcs);
      std::vector<int64_t> bytes(comm.size());
      comm.AllGatherHost(bytes.data(), &c.result.bytes, sizeof(int64_t));
      c.result.bytes = 0;
      for (int64_t b : bytes) c.result.bytes += b;
    }
  }
  if (!status.ok()) return status;
  return std::move(c.result);
}

}  // namespace duo
