// Saving and restoring, part by part (session_store.h).
#include "runtime/saved/session_jobs.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/math.h"
#include "runtime/files/disk_thread.h"
#include "runtime/saved/section_cover.h"
#include "runtime/saved/session_names.h"
#include "runtime/saved/session_store.h"

namespace duo {
namespace {

constexpr int64_t kPartBytes = int64_t{48} << 20;  // of one Step over all ranks
constexpr int kMostBegins = 4;                     // of a restore whose session another server saves meanwhile

}  // namespace

JobPart::JobPart(SessionStore& store) : engine_(*store.engine_), disk_(*store.disk_) {}

JobPart::~JobPart() {
  while (!Ended(false)) std::this_thread::yield();
}

void JobPart::AtDisk(std::function<absl::Status()> work) {
  kind_ = Kind::kDisk;
  working_ = true;
  disk_.Run([this, work = std::move(work)] {
    status_ = work();
    working_ = false;
  });
}

void JobPart::OnRanks(KvIoPlan plan) {
  plan_ = std::move(plan);
  kind_ = Kind::kNext;
  Begin();
}

void JobPart::Begin() {
  if (!disk_.threaded()) {
    absl::StatusOr<KvIoResult> result = engine_.RunIo(plan_);
    status_ = result.status();
    if (result.ok()) result_ = *std::move(result);
    kind_ = Kind::kNone;
  } else if (!engine_.io_under_way()) {
    engine_.BeginIo(plan_);
    kind_ = Kind::kRanks;
  }
}

bool JobPart::Ended(bool keep) {
  if (kind_ == Kind::kNext) {
    if (!keep) kind_ = Kind::kNone;
    if (keep) Begin();
  }
  if (kind_ == Kind::kRanks) {
    std::optional<absl::StatusOr<KvIoResult>> result = engine_.EndIo(keep);
    if (!result.has_value()) return false;
    status_ = result->status();
    if (result->ok()) result_ = **std::move(result);
    kind_ = Kind::kNone;
  }
  if (kind_ == Kind::kDisk && !working_) kind_ = Kind::kNone;
  return kind_ == Kind::kNone;
}

bool JobPart::waits() const {
  if (kind_ == Kind::kDisk) return working_;
  if (kind_ == Kind::kNext) return engine_.io_under_way();
  return kind_ == Kind::kRanks && engine_.io_waits();
}

absl::StatusOr<std::unique_ptr<SaveJob>> SessionStore::StartSave(const std::string& id, SessionId session,
                                                                 const SessionManifest& meta, bool replace) {
  if (!ValidSessionId(id)) return absl::InvalidArgumentError(absl::StrCat("no session can be saved as \"", id, "\""));
  absl::StatusOr<SessionKv> kv = engine_->Kv(session);
  if (!kv.ok()) return kv.status();
  std::unique_ptr<SaveJob> job(new SaveJob(*this));
  job->session_ = session;
  job->id_ = id;
  job->replace_ = replace;
  job->manifest_ = ManifestOf(*kv, meta);
  job->tokens_ = std::move(kv->tokens);
  job->part_.AtDisk([job = job.get()] { return job->Prepare(); });
  if (!disk_->threaded() && !job->part_.status().ok()) return job->part_.status();
  return job;
}

// At the disk: what there is, and so what is to be written and where.
absl::Status SaveJob::Prepare() {
  SessionStore& store = *store_;
  const FileSystem& files = *store.files_;
  const std::string dir = store.DirOf(id_);
  bool there = false;
  absl::StatusOr<int64_t> number = store.PrepareDirectory(id_, &there);
  if (!number.ok()) return number.status();
  const absl::StatusOr<bool> known = store.StillThere(id_);
  if (!known.ok()) return known.status();
  if (there && !*known && !replace_) {
    return absl::AlreadyExistsError(absl::StrCat("there is another saved session ", id_, " in ", store.dir_));
  }
  SessionManifest& m = manifest_;
  int64_t valid = 0;
  const SessionStore::Lineage* lineage = *known ? &store.lineages_.at(id_) : nullptr;
  if (lineage != nullptr) m.serial = lineage->manifest.serial + 1;
  // What is added to must be whole; else all is written anew, beside what is there until it is done.
  if (lineage != nullptr && lineage->session == session_ && lineage->manifest.kv_format == m.kv_format &&
      CheckFiles(files, dir, lineage->manifest).ok()) {
    m.sections = lineage->manifest.sections;
    m.generation = lineage->manifest.generation;
    valid = lineage->valid_tokens;
    former_tokens_ = lineage->manifest.token_file;
    former_append_ = lineage->manifest.append_file;
  } else if (there) {
    if (const absl::StatusOr<SessionManifest> old = ReadManifest(files, dir); old.ok()) {
      m.serial = std::max(m.serial, old->serial + 1);
    }
    number = store.HoldNumber(id_, true);
    if (!number.ok()) return number.status();
  }
  // Not even to these may be added what another server has begun.
  for (SavedFile* file : {&former_tokens_, &former_append_}) {
    if (ParseSavedName(file->name).generation != *number) file->name.clear();
  }
  number_ = *number;
  begun_ = true;  // from here on there is something to undo

  // Sections that lie wholly beyond what is still valid go; the page that the valid part ends in is written again.
  const int64_t first = std::min(valid, m.tokens) / kPageTokens, end = CeilDiv(m.tokens, kPageTokens);
  std::erase_if(m.sections, [&](const KvSection& s) { return s.first >= first; });
  to_write_ = SectionsOf(store.engine_->partition(), first, end, kRangePages);
  std::map<std::string, int64_t> ends;
  for (KvSection& s : to_write_) {
    s.generation = static_cast<int32_t>(number_);
    const std::string name = PageFileName(s.generation, s.first / kRangePages);
    auto [at, added] = ends.emplace(name, 0);
    if (FileInfo info; added && files.info(dir + "/" + name, &info) == 0) at->second = info.bytes;
    if (added) old_lengths_[name] = at->second;
    s.offset = at->second;
    at->second += SectionBytes(s, PageBytesOf(m));
  }
  return absl::OkStatus();
}

SaveJob::~SaveJob() {
  while (!Drop()) std::this_thread::yield();
  if (!begun_ || committed_) return;
  store_->disk_->Run(
      [store = store_, id = id_, number = number_, lengths = old_lengths_] { store->Undo(id, number, lengths); });
}

// The next sections, up to kPartBytes.
absl::Status SaveJob::WritePages() {
  Engine& engine = *store_->engine_;
  absl::StatusOr<SessionKv> kv = engine.Kv(session_);
  if (!kv.ok()) return kv.status();
  KvIoPlan plan;
  plan.kind = KvIoKind::kWrite;
  plan.shared = store_->shared_;
  plan.dir = store_->DirOf(id_);
  plan.format = engine.kv_format();
  plan.tokens = manifest_.tokens;
  plan.pages = kv->pages;
  plan.split_pages = kv->split_pages;
  begun_sections_ = next_;
  for (int64_t bytes = 0; next_ < to_write_.size() && bytes < kPartBytes; ++next_) {
    plan.sections.push_back(to_write_[next_]);
    bytes += SectionBytes(to_write_[next_], PageBytesOf(manifest_));
  }
  part_.OnRanks(std::move(plan));
  return absl::OkStatus();
}

absl::Status SaveJob::WriteRings() {
  Engine& engine = *store_->engine_;
  absl::StatusOr<SessionKv> kv = engine.Kv(session_);
  if (!kv.ok()) return kv.status();
  SessionManifest& m = manifest_;
  m.rings = RingSectionsOf(engine.partition(), RingBytesOf(m));
  if (m.rings.empty()) return absl::OkStatus();
  KvIoPlan plan;
  plan.kind = KvIoKind::kWrite;
  plan.shared = store_->shared_;
  plan.dir = store_->DirOf(id_);
  plan.format = engine.kv_format();
  plan.ring = kv->ring;
  plan.rings = m.rings;
  plan.rings_file = m.rings_file = SavedFileName(number_, SavedKind::kRings, m.serial);
  part_.OnRanks(std::move(plan));
  return absl::OkStatus();
}

// At the disk: tokens, and the manifest that makes all of it count.
absl::Status SaveJob::Commit() {
  SessionStore& store = *store_;
  const std::string dir = store.DirOf(id_);
  SessionManifest& m = manifest_;
  const std::string name = SavedFileName(number_, SavedKind::kTokens, m.serial);
  absl::StatusOr<SavedFile> tokens = WriteTokens(*store.files_, dir, former_tokens_, name, tokens_);
  if (!tokens.ok()) return tokens.status();
  m.token_file = *tokens;
  bytes_written_ += m.token_file.bytes - (m.token_file.name == name ? 0 : former_tokens_.bytes);
  const bool unfinished = m.append.has_value() && !m.append->done;
  m.bytes = m.token_file.bytes + (unfinished ? m.append->total * 4 : 0) +
            static_cast<int64_t>(m.rings.size()) * RingBytesOf(m);
  for (const KvSection& s : m.sections) m.bytes += SectionBytes(s, PageBytesOf(m));
  const absl::Status done = store.Commit(id_, number_, former_append_, true, &m, &committed_);
  if (!committed_) return done;
  SessionStore::Lineage& lineage = store.lineages_[id_];
  lineage.session = session_;
  lineage.valid_tokens = m.tokens;
  lineage.manifest = m;
  if (m.append.has_value()) lineage.manifest.append->tokens.clear();
  const absl::StatusOr<FileState> state = StateOf(*store.files_, absl::StrCat(dir, "/", kManifestName));
  if (state.ok()) lineage.state = *state;
  if (!done.ok()) return done;
  store.Clean(id_, m, number_);
  return absl::OkStatus();
}

absl::Status SaveJob::Take() {
  if (!part_.status().ok()) return part_.status();
  if (std::exchange(taken_, true)) return absl::OkStatus();
  const KvIoResult& result = part_.result();
  if (phase_ == Phase::kPages) {
    for (size_t i = begun_sections_; i < next_; ++i) {
      to_write_[i].crc = result.section_crcs[i - begun_sections_];
      manifest_.sections.push_back(to_write_[i]);
    }
    bytes_written_ += result.bytes;
  } else if (phase_ == Phase::kRings && !manifest_.rings.empty()) {
    for (size_t i = 0; i < manifest_.rings.size(); ++i) manifest_.rings[i].crc = result.ring_crcs[i];
    bytes_written_ += result.bytes;
  }
  return absl::OkStatus();
}

absl::Status SaveJob::Next() {
  taken_ = false;
  if (next_ < to_write_.size()) {
    phase_ = Phase::kPages;
    return WritePages();
  }
  if (phase_ != Phase::kRings) {
    phase_ = Phase::kRings;
    return WriteRings();
  }
  phase_ = Phase::kCommit;
  part_.AtDisk([this] { return Commit(); });
  return absl::OkStatus();
}

absl::StatusOr<bool> SaveJob::Step() {
  while (part_.Ended()) {
    if (absl::Status s = Take(); !s.ok()) return s;
    if (phase_ == Phase::kCommit) return true;
    if (absl::Status s = Next(); !s.ok()) return s;
    if (phase_ != Phase::kPages || !part_.Ended()) continue;
    if (absl::Status s = Take(); !s.ok()) return s;
    break;  // others' turn
  }
  return false;
}

absl::StatusOr<std::unique_ptr<RestoreJob>> SessionStore::StartRestore(const std::string& id, int64_t max_tokens,
                                                                       bool as_copy) {
  std::unique_ptr<RestoreJob> job(new RestoreJob(*this));
  job->id_ = id;
  job->max_tokens_ = max_tokens;
  job->as_copy_ = as_copy;
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
      store_->engine_->Adopt(manifest_.max_tokens, std::move(tokens_), manifest_.rings_valid,
                             std::min(manifest_.reserved_tokens, manifest_.max_tokens));
  if (!session.ok()) return session.status();
  session_ = *session;
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
  GiveUp();
  return true;
}

}  // namespace duo
