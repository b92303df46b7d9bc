// Saving, part by part (session_jobs.h).
#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/math.h"
#include "runtime/files/disk_thread.h"
#include "runtime/saved/session_jobs.h"
#include "runtime/saved/session_names.h"
#include "runtime/saved/session_store.h"

namespace duo {

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
    if (FileInfo info; added && files.info(absl::StrCat(dir, "/", name), &info) == 0) at->second = info.bytes;
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

// What every write of this save has in common; what is written is missing.
KvIoPlan SaveJob::WritePlan() const {
  KvIoPlan plan;
  plan.kind = KvIoKind::kWrite;
  plan.shared = store_->shared_;
  plan.dir = store_->DirOf(id_);
  plan.format = store_->engine_->kv_format();
  plan.tokens = manifest_.tokens;
  return plan;
}

// The next sections, up to kPartBytes.
absl::Status SaveJob::WritePages() {
  absl::StatusOr<SessionKv> kv = store_->engine_->Kv(session_);
  if (!kv.ok()) return kv.status();
  KvIoPlan plan = WritePlan();
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
  KvIoPlan plan = WritePlan();
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
  absl::Status done = store.Commit(id_, number_, former_append_, true, &m, &committed_);
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

}  // namespace duo
