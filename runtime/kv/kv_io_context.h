// Private to kv_io*.cc: what a rank knows while it carries out a plan. One thread at a time but for PlanFiles.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "runtime/files/crc32c.h"
#include "runtime/files/file.h"
#include "runtime/kv/kv_io.h"

namespace duo {

// The files of a plan, opened when first used. Thread-safe.
class PlanFiles {
 public:
  PlanFiles(const FileSystem& files, const KvIoPlan& plan, int flags) : files_(files), plan_(plan), flags_(flags) {}
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
      absl::StatusOr<File> file = File::Open(files_, plan_.dir + "/" + name, flags_);
      if (!file.ok()) return file.status();
      found = open_.emplace(name, std::move(*file)).first;
    }
    return &found->second;
  }
  const FileSystem& files_;
  const KvIoPlan& plan_;
  int flags_;
  std::mutex mutex_;
  std::map<std::string, File> open_;
};

// Where a head's pages and rings are on this rank.
struct LocalKv {
  const RankShard& shard;
  const KvCache& cache;
  const KvIoPlan* plan;

  // Device address of page p of (layer, KV head); null when it is not held here or lies beyond the session.
  uint8_t* Page(int layer, int head, int64_t p) const {
    for (const PagedKv& kv : cache.layers()[layer].paged) {
      for (int h = 0; h < kv.num_heads; ++h) {
        if (shard.layers[layer][kv.first_head + h].kv_head != head || !kv.holds(p)) continue;
        const std::vector<int32_t>& ids = kv.split ? plan->split_pages : plan->pages;
        const int64_t group = p / kv.slots;
        if (group >= static_cast<int64_t>(ids.size())) return nullptr;
        return kv.base + h * kv.head_stride + ids[group] * kv.id_stride() +
               (p % kv.slots - kv.first_slot) * kv.page.page_bytes();
      }
    }
    return nullptr;
  }
  bool HoldsAny(const KvSection& s) const {
    for (int i = s.from; i < s.to; ++i) {
      if (Page(s.layer, s.head, s.first + int64_t{i} * s.step) != nullptr) return true;
    }
    return false;
  }
  uint8_t* Ring(int layer, int head) const {
    const RingKv& kv = cache.layers()[layer].ring;
    for (int h = 0; h < kv.num_heads; ++h) {
      if (shard.layers[layer][kv.first_head + h].kv_head == head) return kv.k_at(plan->ring, h, 0);
    }
    return nullptr;
  }
  // A ring as it stands in files, in the cache's format: without slack.
  RingKv SavedRing(int layer) const {
    RingKv saved = cache.layers()[layer].ring;
    saved.slack = 0;
    return saved;
  }
};

inline PageLayout LayoutOf(const KvCache& cache) {
  const HeadShape& shape = cache.layers()[0].shape;
  return {cache.sizes().format, shape.head_dim};
}

// Bytes of a section or a ring on their way; none: not this rank's affair.
struct Staged {
  std::unique_ptr<uint8_t[]> bytes;
  int64_t size = 0;
  void Make(int64_t n) {
    bytes = std::make_unique_for_overwrite<uint8_t[]>(n);  // what is never touched takes no memory
    size = n;
  }
};

struct KvIoContext {
  KvIoPlan plan;
  const FileSystem& files;
  Device& device;
  Communicator& comm;
  LocalKv local;
  PageLayout layout;   // in memory
  int64_t page_bytes;  // in the files
  KvIoResult result = {};
  absl::Status status = {};
  std::vector<Staged> sections = {}, rings = {};  // as in the plan

  bool leader() const { return comm.rank() == 0; }
};

// The tokens that a ring of a session of `tokens` tokens holds, from the slots of one layout to those of another; other
// slots become zeros. Host memory.
void RelayRing(const RingKv& from, const uint8_t* ring, const RingKv& to, uint8_t* out, int64_t tokens);

// Reads what this rank is to have, or rank 0 for all, into the staged bytes, in the cache's format.
absl::Status ReadStaged(KvIoContext& c, ThreadPool& pool);
// Collective: to where it belongs.
void PlaceStaged(KvIoContext& c);

}  // namespace duo
