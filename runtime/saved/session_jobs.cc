// Saving and restoring, part by part (session_store.h).
#include <unistd.h>

#include <filesystem>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "runtime/saved/session_files.h"
#include "runtime/saved/session_store.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPartBytes = int64_t{48} << 20;  // of one Step over all ranks

}  // namespace

// The next sections, up to kPartBytes.
absl::Status SaveJob::WritePart() {
  Engine& engine = *store_->engine_;
  absl::StatusOr<SessionKv> kv = engine.Kv(session_);
  if (!kv.ok()) return kv.status();
  KvIoPlan plan;
  plan.kind = KvIoKind::kWrite;
  plan.shared = store_->shared_;
  plan.dir = dir_;
  plan.tokens = manifest_.tokens;
  plan.pages = kv->pages;
  plan.split_pages = kv->split_pages;
  for (int64_t bytes = 0; next_ < to_write_.size() && bytes < kPartBytes; ++next_) {
    plan.sections.push_back(to_write_[next_]);
    bytes += SectionBytes(to_write_[next_], SavedPageBytes(engine));
  }
  absl::StatusOr<KvIoResult> result = engine.RunIo(plan);
  if (!result.ok()) return result.status();
  bytes_written_ += result->bytes;
  for (size_t i = 0; i < plan.sections.size(); ++i) {
    plan.sections[i].crc = result->section_crcs[i];
    manifest_.sections.push_back(plan.sections[i]);
  }
  return absl::OkStatus();
}

// Rings, tokens, and the manifest that makes all of it count.
absl::Status SaveJob::Finish() {
  Engine& engine = *store_->engine_;
  absl::StatusOr<SessionKv> kv = engine.Kv(session_);
  if (!kv.ok()) return kv.status();
  SessionManifest& m = manifest_;
  KvIoPlan plan;
  plan.kind = KvIoKind::kWrite;
  plan.shared = store_->shared_;
  plan.dir = dir_;
  plan.ring = kv->ring;
  plan.rings = RingSectionsOf(engine.partition(), SavedRingBytes(engine));
  if (!plan.rings.empty()) {
    plan.rings_file = m.rings_file = absl::StrCat(m.generation, "-rings-", m.serial);
    absl::StatusOr<KvIoResult> result = engine.RunIo(plan);
    if (!result.ok()) return result.status();
    bytes_written_ += result->bytes;
    for (size_t i = 0; i < plan.rings.size(); ++i) plan.rings[i].crc = result->ring_crcs[i];
    m.rings = plan.rings;
  }
  absl::StatusOr<SavedFile> tokens = WriteTokens(dir_, absl::StrCat(m.generation, "-tokens-", m.serial), kv->tokens);
  if (!tokens.ok()) return tokens.status();
  m.token_file = *tokens;
  if (m.append.has_value() && !m.append->done) {
    tokens = WriteTokens(dir_, absl::StrCat(m.generation, "-append-", m.serial), m.append->tokens);
    if (!tokens.ok()) return tokens.status();
    m.append_file = *tokens;
  }
  bytes_written_ += m.token_file.bytes + m.append_file.bytes;
  m.bytes = m.token_file.bytes + m.append_file.bytes + static_cast<int64_t>(m.rings.size()) * SavedRingBytes(engine);
  for (const KvSection& s : m.sections) m.bytes += SectionBytes(s, SavedPageBytes(engine));
  if (absl::Status s = SyncDir(dir_); !s.ok()) return s;
  if (absl::Status s = ReplaceManifest(dir_, m); !s.ok()) return s;
  if (absl::Status s = SyncDir(store_->dir_); !s.ok()) return s;
  done_ = true;
  RemoveLeftovers(dir_, m);
  SavedLineage& lineage = store_->lineages_[fs::path(dir_).filename().string()];
  lineage = {session_, m.tokens, m};
  if (m.append.has_value()) lineage.manifest.append->tokens.clear();
  return absl::OkStatus();
}

absl::StatusOr<bool> SaveJob::Step() {
  if (next_ < to_write_.size()) {
    if (absl::Status s = WritePart(); !s.ok()) return s;
    return false;
  }
  if (absl::Status s = Finish(); !s.ok()) return s;
  return true;
}

SaveJob::~SaveJob() {
  if (done_ || store_ == nullptr) return;
  // What was written is not named by any manifest: files that are appended to get their old length back, new ones go.
  for (const auto& [name, length] : old_lengths_) {
    const std::string file = dir_ + "/" + name;
    const int ignored = length > 0 ? truncate(file.c_str(), length) : unlink(file.c_str());
    static_cast<void>(ignored);
  }
  const std::string id = fs::path(dir_).filename().string();
  if (absl::StatusOr<SessionManifest> old = store_->Find(id); old.ok()) {
    RemoveLeftovers(dir_, *old);
  } else if (old.status().code() == absl::StatusCode::kNotFound) {
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
  }
}

absl::StatusOr<bool> RestoreJob::Step() {
  Engine& engine = *store_->engine_;
  absl::StatusOr<SessionKv> kv = engine.Kv(session_);
  if (!kv.ok()) return kv.status();
  KvIoPlan plan;
  plan.kind = KvIoKind::kRead;
  plan.shared = store_->shared_;
  plan.dir = dir_;
  plan.tokens = manifest_.tokens;
  plan.pages = kv->pages;
  plan.split_pages = kv->split_pages;
  // Sections of one page must be read in order; within a part they are read at once, so a page may come only once.
  std::set<std::tuple<int, int, int>> seen;
  int64_t bytes = 0;
  for (; next_ < manifest_.sections.size() && bytes < kPartBytes; ++next_) {
    const KvSection& s = manifest_.sections[next_];
    if (!seen.insert({s.layer, s.head, s.first / kRangePages * 4096 + s.first % s.step}).second) break;
    plan.sections.push_back(s);
    bytes += SectionBytes(s, SavedPageBytes(engine));
  }
  const bool last = next_ == manifest_.sections.size();
  if (last) {
    plan.ring = kv->ring;
    plan.rings = manifest_.rings;
    plan.rings_file = manifest_.rings_file;
  }
  absl::StatusOr<KvIoResult> result = engine.RunIo(plan);
  if (!result.ok()) return result.status();
  bytes_read_ += result->bytes;
  if (!last) return false;
  done_ = true;
  SessionManifest kept = manifest_;
  if (kept.append.has_value()) kept.append->tokens.clear();
  store_->lineages_[fs::path(dir_).filename().string()] = {session_, manifest_.tokens, std::move(kept)};
  return true;
}

RestoreJob::~RestoreJob() {
  if (!done_ && session_ != 0) store_->engine_->CloseSession(session_).IgnoreError();
}

}  // namespace duo
