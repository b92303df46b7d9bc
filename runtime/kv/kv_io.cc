#include "runtime/kv/kv_io.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/kv/kv_io_context.h"

namespace duo {
namespace {

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
void FillSection(const KvSection& s, const LocalKv& local, Device& device, const PageLayout& layout,
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
// --- Every rank for itself.
absl::Status WriteOwn(KvIoContext& c) {
  PlanFiles files(c.files, c.plan, O_WRONLY | O_CREAT);
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

// --- Rank 0 for all. A failure at rank 0 must not leave the others waiting: every section is exchanged in any case.
absl::Status WriteThroughLeader(KvIoContext& c) {
  const bool leader = c.comm.rank() == 0;
  PlanFiles files(c.files, c.plan, O_WRONLY | O_CREAT);
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

absl::StatusOr<KvIoResult> RunKvIo(const KvIoPlan& plan, const FileSystem& files, Device& device, Communicator& comm,
                                   const RankShard& shard, const KvCache& cache) {
  const PageLayout layout = LayoutOf(cache), file_layout{plan.format, layout.head_dim};
  DUO_CHECK(plan.kind != KvIoKind::kWrite || plan.format == layout.format);
  DUO_CHECK(plan.format == layout.format || ReadsAs(plan.format, layout.format) || plan.kind == KvIoKind::kProbe);
  KvIoContext c{plan, files, device, comm, LocalKv{shard, cache, plan}, layout, file_layout.page_bytes(), {}};
  c.result.section_crcs.assign(plan.sections.size(), 0);
  c.result.ring_crcs.assign(plan.rings.size(), 0);
  absl::Status status;
  if (plan.kind == KvIoKind::kProbe) {
    FileInfo info;
    const int32_t mine = files.info(plan.dir + "/" + plan.rings_file, &info) == 0 ? 1 : 0;
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
