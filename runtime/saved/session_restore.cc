// Restoring, part by part (session_jobs.h).
#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/files/disk_thread.h"
#include "runtime/saved/section_cover.h"
#include "runtime/saved/session_jobs.h"
#include "runtime/saved/session_names.h"
#include "runtime/saved/session_store.h"

namespace duo {
namespace {

constexpr int kMostBegins = 4;  // of a restore whose session another server saves meanwhile

}  // namespace

absl::StatusOr<std::unique_ptr<RestoreJob>> SessionStore::StartRestore(const std::string& id, int64_t max_tokens,
                                                                       bool as_copy) {
  std::unique_ptr<RestoreJob> job(new RestoreJob(*this));
  job->max_tokens_ = max_tokens;
  job->as_copy_ = as_copy;
  return Begin(id, std::move(job));
}

absl::StatusOr<std::unique_ptr<RestoreJob>> SessionStore::StartRestorePrefix(const std::string& id,
                                                                             const std::string& realm) {
  std::unique_ptr<RestoreJob> job(new RestoreJob(*this));
  job->as_copy_ = true;
  job->realm_ = realm;
  return Begin(id, std::move(job));
}

absl::StatusOr<std::unique_ptr<RestoreJob>> SessionStore::Begin(const std::string& id,
                                                                std::unique_ptr<RestoreJob> job) {
  job->id_ = id;
  job->part_.AtDisk([job = job.get()] { return job->Begin(); });
  if (disk_->threaded()) return job;
  if (absl::Status s = job->part_.status(); !s.ok()) return s;
  if (absl::Status s = job->Adopt(); !s.ok()) return s;
  return job;
}

// At the disk: what is to be read, and whether it can be.
absl::Status RestoreJob::Begin() {
  const FileSystem& files = *store_->files_;
  const std::string dir = store_->DirOf(id_);
  ++begun_;
  next_ = 0;
  last_ = false;
  absl::StatusOr<SessionManifest> read = store_->ReadWhole(id_);
  if (!read.ok()) return read.status();
  SessionManifest& m = manifest_ = std::move(*read);
  if (absl::Status s = store_->CheckUsable(m, dir); !s.ok()) return s;
  if (absl::Status s = store_->CheckRings(m, dir); !s.ok()) return s;
  if (absl::Status s = CheckFiles(files, dir, m); !s.ok()) return s;
  if (!as_copy_) {
    if (absl::Status s = store_->HoldNumber(id_, false).status(); !s.ok()) return s;
  }
  absl::StatusOr<std::vector<KvSection>> cover = CoverPages(m, dir);
  if (!cover.ok()) return cover.status();
  to_read_ = std::move(*cover);
  absl::StatusOr<SessionStore::Texts> texts = store_->ReadTexts(id_);
  if (!texts.ok()) return texts.status();
  if (texts->manifest.serial != m.serial || texts->manifest.generation != m.generation) {
    return absl::DataLossError(dir + ": it was saved while it was read");
  }
  if (m.append.has_value()) m.append->tokens = std::move(texts->manifest.append->tokens);
  const int64_t max_tokens = max_tokens_ == 0 ? m.max_tokens : max_tokens_;
  if (max_tokens < m.tokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("saved session %s holds %d tokens, max_tokens of %d is less", id_, m.tokens, max_tokens));
  }
  m.max_tokens = max_tokens;
  tokens_ = std::move(texts->tokens);
  for (const auto& [name, length] : FilesOf(m)) names_.insert(name);
  store_->BeginReading(id_, names_);
  return absl::OkStatus();
}

absl::Status RestoreJob::Adopt() {
  absl::StatusOr<SessionId> session =
      realm_.has_value() ? store_->engine_->AdoptPrefix(std::move(tokens_), manifest_.rings_valid, *realm_)
                         : store_->engine_->Adopt(manifest_.max_tokens, std::move(tokens_), manifest_.rings_valid,
                                                  std::min(manifest_.reserved_tokens, manifest_.max_tokens));
  if (!session.ok()) return session.status();
  session_ = *session;
  store_->engine_->SetSparse(session_, manifest_.sparse);
  phase_ = Phase::kPages;
  return absl::OkStatus();
}

// What a save has left for its sake may go.
void RestoreJob::GiveUp() {
  if (session_ != 0 && !done_) store_->engine_->CloseSession(std::exchange(session_, 0)).IgnoreError();
  if (names_.empty()) return;
  store_->disk_->Run([store = store_, id = id_, names = std::exchange(names_, {})] { store->EndReading(id, names); });
}

RestoreJob::~RestoreJob() {
  while (!Drop()) std::this_thread::yield();
  GiveUp();
}

absl::StatusOr<bool> RestoreJob::Step() {
  if (!part_.Ended()) return false;
  const absl::Status& status = part_.status();
  if (!status.ok() && phase_ == Phase::kPages && begun_ < kMostBegins) {
    failed_ = status;
    phase_ = Phase::kAgain;
    part_.AtDisk([this] {
      const absl::StatusOr<SessionManifest> now = ReadManifest(*store_->files_, store_->DirOf(id_));
      changed_ = now.ok() && (now->serial != manifest_.serial || now->generation != manifest_.generation);
      return absl::OkStatus();
    });
    return false;
  }
  if (!status.ok()) return status;
  if (phase_ == Phase::kEnd) return End();
  if (phase_ == Phase::kAgain) {
    if (!changed_) return failed_;
    GiveUp();
    phase_ = Phase::kBegin;
    part_.AtDisk([this] { return Begin(); });
    return false;
  }
  if (phase_ == Phase::kBegin) {
    if (absl::Status s = Adopt(); !s.ok()) return s;
  } else {
    bytes_read_ += part_.result().bytes;
    if (last_ && as_copy_) return End();
    if (last_) {
      phase_ = Phase::kEnd;
      part_.AtDisk([this] { return Remember(); });
      return false;
    }
  }
  if (absl::Status s = ReadPages(); !s.ok()) return s;
  return false;
}

absl::Status RestoreJob::ReadPages() {
  Engine& engine = *store_->engine_;
  absl::StatusOr<SessionKv> kv = engine.Kv(session_);
  if (!kv.ok()) return kv.status();
  KvIoPlan plan;
  plan.kind = KvIoKind::kRead;
  plan.shared = store_->shared_;
  plan.dir = store_->DirOf(id_);
  plan.format = *FormatOf(manifest_);
  plan.tokens = manifest_.tokens;
  plan.pages = kv->pages;
  plan.split_pages = kv->split_pages;
  for (int64_t bytes = 0; next_ < to_read_.size() && bytes < kPartBytes; ++next_) {
    plan.sections.push_back(to_read_[next_]);
    bytes += (to_read_[next_].to - to_read_[next_].from) * PageBytesOf(manifest_);
  }
  last_ = next_ == to_read_.size();
  if (last_) {
    plan.ring = kv->ring;
    plan.rings = manifest_.rings;
    plan.rings_file = manifest_.rings_file;
  }
  part_.OnRanks(std::move(plan));
  return absl::OkStatus();
}

// At the disk: what a save does next compares it with what is then there.
absl::Status RestoreJob::Remember() {
  SessionStore::Lineage lineage;
  lineage.session = session_;
  lineage.valid_tokens = manifest_.tokens;
  lineage.manifest = manifest_;
  if (lineage.manifest.append.has_value()) lineage.manifest.append->tokens.clear();
  SessionStore::Lineage& known = store_->lineages_[id_];
  if (known.manifest.serial <= manifest_.serial || known.session == 0) known = std::move(lineage);
  return absl::OkStatus();
}

bool RestoreJob::End() {
  done_ = true;
  if (realm_.has_value()) store_->engine_->Filled(session_).IgnoreError();
  GiveUp();
  return true;
}

}  // namespace duo
