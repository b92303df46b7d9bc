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

// A section's pages as they will stand in the file; room for their CRCs behind them.
void StageSection(const KvSection& s, KvIoContext& c, Staged* staged) {
  staged->Make(SectionBytes(s, c.page_bytes));
  for (int i = 0; i < s.count; ++i) {
    const int64_t p = s.first + int64_t{i} * s.step;
    uint8_t* page = staged->bytes.get() + i * c.page_bytes;
    const uint8_t* source = c.local.Page(s.layer, s.head, p);
    DUO_CHECK(source != nullptr);
    c.device.Download(page, source, c.page_bytes);
    ZeroTail(page, c.layout, p * kPageTokens, c.plan.tokens);
  }
}

void StageRing(const KvRingSection& r, KvIoContext& c, Staged* staged) {
  const RingKv &kv = c.local.cache.layers()[r.layer].ring, saved = c.local.SavedRing(r.layer);
  staged->Make(saved.ring_bytes());
  const uint8_t* ring = c.local.Ring(r.layer, r.head);
  DUO_CHECK(ring != nullptr);
  if (kv.slack == 0) return c.device.Download(staged->bytes.get(), ring, staged->size);
  std::vector<uint8_t> held(kv.ring_bytes());
  c.device.Download(held.data(), ring, kv.ring_bytes());
  RelayRing(kv, held.data(), saved, staged->bytes.get(), c.plan.tokens);
}

// Whoever writes has the bytes afterwards: each rank its own, or rank 0 those of all.
void StageWrites(KvIoContext& c) {
  const auto stage = [&c](const auto& item, int64_t bytes, Staged* staged, const auto& fill) {
    const bool own = item.rank == c.comm.rank();
    if (own) fill(item, c, staged);
    if (c.plan.shared || c.comm.size() == 1) return;
    if (!own) staged->Make(bytes);
    c.comm.Broadcast(staged->bytes.get(), bytes, item.rank);
    if (!c.leader()) *staged = {};
  };
  for (size_t i = 0; i < c.plan.sections.size(); ++i) {
    const KvSection& s = c.plan.sections[i];
    stage(s, SectionBytes(s, c.page_bytes), &c.sections[i], StageSection);
  }
  for (size_t i = 0; i < c.plan.rings.size(); ++i) {
    const KvRingSection& r = c.plan.rings[i];
    stage(r, c.local.SavedRing(r.layer).ring_bytes(), &c.rings[i], StageRing);
  }
}

// Writes each page's CRC behind the pages; gives that of the CRCs.
uint32_t Seal(const KvSection& s, int64_t page_bytes, uint8_t* bytes) {
  uint8_t* const table = bytes + s.count * page_bytes;
  for (int i = 0; i < s.count; ++i) {
    const uint32_t crc = Crc32c(bytes + i * page_bytes, page_bytes);
    std::memcpy(table + i * sizeof crc, &crc, sizeof crc);
  }
  return Crc32c(table, s.count * sizeof(uint32_t));
}

absl::Status WriteStaged(KvIoContext& c) {
  PlanFiles files(c.files, c.plan, O_WRONLY | O_CREAT);
  for (size_t i = 0; i < c.plan.sections.size(); ++i) {
    const KvSection& s = c.plan.sections[i];
    const Staged& staged = c.sections[i];
    if (staged.bytes == nullptr) continue;
    c.result.section_crcs[i] = Seal(s, c.page_bytes, staged.bytes.get());
    absl::StatusOr<const File*> file = files.Pages(s);
    if (!file.ok()) return file.status();
    if (absl::Status w = (*file)->Write(staged.bytes.get(), staged.size, s.offset); !w.ok()) return w;
    c.result.bytes += staged.size;
  }
  for (size_t i = 0; i < c.plan.rings.size(); ++i) {
    const Staged& staged = c.rings[i];
    if (staged.bytes == nullptr) continue;
    c.result.ring_crcs[i] = Crc32c(staged.bytes.get(), staged.size);
    absl::StatusOr<const File*> file = files.Rings();
    if (!file.ok()) return file.status();
    if (absl::Status w = (*file)->Write(staged.bytes.get(), staged.size, c.plan.rings[i].offset); !w.ok()) return w;
    c.result.bytes += staged.size;
  }
  return files.SyncAll();
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

void RelayRing(const RingKv& from, const uint8_t* ring, const RingKv& to, uint8_t* out, int64_t tokens) {
  const int64_t bytes = from.vector_bytes();
  std::memset(out, 0, to.ring_bytes());
  const auto move = [&](int64_t position) {
    const int64_t source = from.slot_of(position), target = to.slot_of(position);
    std::memcpy(out + target * bytes, ring + source * bytes, bytes);
    std::memcpy(out + (to.slots() + target) * bytes, ring + (from.slots() + source) * bytes, bytes);
  };
  for (int64_t position = 0; position < std::min<int64_t>(tokens, from.sink); ++position) move(position);
  const int64_t held = std::min(from.slots(), to.slots()) - from.sink;
  for (int64_t position = std::max<int64_t>(from.sink, tokens - held); position < tokens; ++position) move(position);
}

KvIoRun::KvIoRun(std::unique_ptr<KvIoContext> context) : c_(std::move(context)) {}
KvIoRun::~KvIoRun() = default;

std::unique_ptr<KvIoRun> KvIoRun::Begin(KvIoPlan plan, const FileSystem& files, Device& device, Communicator& comm,
                                        const RankShard& shard, const KvCache& cache) {
  const PageLayout layout = LayoutOf(cache), file_layout{plan.format, layout.head_dim};
  DUO_CHECK(plan.kind != KvIoKind::kWrite || plan.format == layout.format);
  DUO_CHECK(plan.format == layout.format || ReadsAs(plan.format, layout.format) || plan.kind == KvIoKind::kProbe);
  std::unique_ptr<KvIoContext> c(new KvIoContext{std::move(plan), files, device, comm, LocalKv{shard, cache, nullptr},
                                                 layout, file_layout.page_bytes()});
  c->local.plan = &c->plan;
  c->result.section_crcs.assign(c->plan.sections.size(), 0);
  c->result.ring_crcs.assign(c->plan.rings.size(), 0);
  c->sections.resize(c->plan.sections.size());
  c->rings.resize(c->plan.rings.size());
  if (c->plan.kind == KvIoKind::kWrite) StageWrites(*c);
  return std::unique_ptr<KvIoRun>(new KvIoRun(std::move(c)));
}

void KvIoRun::Work(ThreadPool& pool) {
  KvIoContext& c = *c_;
  if (c.plan.kind == KvIoKind::kProbe) {
    FileInfo info;
    c.result.visible = c.files.info(c.plan.dir + "/" + c.plan.rings_file, &info) == 0;
  } else {
    c.status = c.plan.kind == KvIoKind::kWrite ? WriteStaged(c) : ReadStaged(c, pool);
  }
}

absl::StatusOr<KvIoResult> KvIoRun::End() {
  KvIoContext& c = *c_;
  const KvIoPlan& plan = c.plan;
  Communicator& comm = c.comm;
  if (comm.size() > 1) c.status = Agree(comm, c.status);
  if (!c.status.ok()) return c.status;
  if (plan.kind == KvIoKind::kRead) {
    PlaceStaged(c);
    c.device.Synchronize();
  }
  if (comm.size() > 1 && plan.kind == KvIoKind::kProbe) {
    const int32_t mine = c.result.visible ? 1 : 0;
    std::vector<int32_t> all(comm.size());
    comm.AllGatherHost(all.data(), &mine, sizeof mine);
    c.result.visible = std::find(all.begin(), all.end(), 0) == all.end();
  }
  if (comm.size() > 1 && plan.shared) {
    ShareCrcs(comm, plan.sections, &c.result.section_crcs);
    ShareCrcs(comm, plan.rings, &c.result.ring_crcs);
    std::vector<int64_t> bytes(comm.size());
    comm.AllGatherHost(bytes.data(), &c.result.bytes, sizeof(int64_t));
    c.result.bytes = 0;
    for (int64_t b : bytes) c.result.bytes += b;
  }
  return std::move(c.result);
}

}  // namespace duo
