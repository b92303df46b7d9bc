// KvIo: writes pages and rings of one session to files and reads them back, on every rank at once. Rank 0 makes a
// KvIoPlan and sends it; each rank then does the sections it holds. The bytes of a page and of a ring are the same on
// every backend (kv_layout.h), so any partition can read what any other wrote.
//
// A plan is carried out in three parts (KvIoRun), so that no step of the model waits for a disk: the bytes go through
// host memory, and only the part in the middle, on whatever thread, reads and writes files.
//
// Where ranks do not share the directory rank 0 does all reading and writing and exchanges the bytes with the holders.
// Results are complete on rank 0. Errors: DATA_LOSS (a checksum or a short file), RESOURCE_EXHAUSTED (disk full),
// PERMISSION_DENIED, INTERNAL (other I/O errors), each with the file and the place.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/device.h"
#include "kernels/base/thread_pool.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "parallel/shard.h"
#include "runtime/files/file_system.h"
#include "runtime/kv/kv_cache.h"

namespace duo {

constexpr int64_t kRangePages = 512;  // pages of one page file: 65,536 tokens
std::string PageFileName(int generation, int64_t range);

// Pages first, first + step, .. (count of them) of one (layer, KV head), side by side at `offset` of the page file of
// their range, followed by a CRC32C of each page.
struct KvSection {
  int32_t layer = 0, head = 0;
  int32_t first = 0, step = 1, count = 0;
  int32_t rank = 0;    // who writes it; meaningless when read
  int64_t offset = 0;  // bytes
  uint32_t crc = 0;    // of the pages' CRCs
  int32_t generation = 1;
  // kRead: only its pages from .. to - 1 (of count) are read. No page may be in two sections of a plan: they are read
  // side by side.
  int32_t from = 0, to = 0;
};
struct KvRingSection {
  int32_t layer = 0, head = 0;
  int32_t rank = 0;
  uint32_t crc = 0;
  int64_t offset = 0;
};

enum class KvIoKind : uint8_t { kProbe, kWrite, kRead };

struct KvIoPlan {
  KvIoKind kind = KvIoKind::kProbe;
  bool shared = true;  // every rank sees the directory
  std::string dir;
  std::string rings_file;             // without directory; kProbe: the file to look for
  int32_t ring = 0;                   // ring set
  KvFormat format = KvFormat::kBF16;  // of the pages and rings in the files; reading f32 into bf16 rounds
  // Of the session: what pages hold beyond is written as zeros, and rings are laid out by it.
  int64_t tokens = 0;
  std::vector<int32_t> pages, split_pages;  // the session's page ids, from page 0
  std::vector<KvSection> sections;
  std::vector<KvRingSection> rings;
};

struct KvIoResult {
  int64_t bytes = 0;                              // read or written, by all ranks
  std::vector<uint32_t> section_crcs, ring_crcs;  // kWrite: [sections], [rings]
  bool visible = true;                            // kProbe: every rank sees the file
};

std::string Serialize(const KvIoPlan& plan);
absl::StatusOr<KvIoPlan> ParseKvIoPlan(std::string_view bytes);

// The sections that pages [begin, end) of a session make, and their writers; offsets are left 0. Sections do not cross
// ranges.
std::vector<KvSection> SectionsOf(const Partition& partition, int64_t begin, int64_t end, int64_t range_pages);
std::vector<KvRingSection> RingSectionsOf(const Partition& partition, int64_t ring_bytes);

// Pages and rings in `saved` can be read into a cache of `cache`.
constexpr bool ReadsAs(KvFormat saved, KvFormat cache) {
  return saved == cache || (saved == KvFormat::kF32 && cache == KvFormat::kBF16);
}

// Bytes of a section in its file.
int64_t SectionBytes(const KvSection& section, int64_t page_bytes);

struct KvIoContext;

// A plan under way on one rank. Begin and End are collective and belong to the engine's thread; between them Work runs
// once. What files, device, comm, shard and cache are borrowed from outlives it. Destroying it before End leaves the
// cache as it was; not while Work runs.
class KvIoRun {
 public:
  // The same plan on every rank. What is to be written is copied here: the session may go on or go away.
  static std::unique_ptr<KvIoRun> Begin(KvIoPlan plan, const FileSystem& files, Device& device, Communicator& comm,
                                        const RankShard& shard, const KvCache& cache);
  ~KvIoRun();
  // All that waits for a disk; touches neither device nor communicator. Any thread that may use the pool.
  void Work(ThreadPool& pool);
  // When Work has returned on every rank: what was read goes to where it belongs, which must still be the session's.
  absl::StatusOr<KvIoResult> End();

 private:
  explicit KvIoRun(std::unique_ptr<KvIoContext> context);
  std::unique_ptr<KvIoContext> c_;
};

}  // namespace duo
