// Saving and restoring, part by part (session_store.h).
#include "runtime/saved/session_jobs.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/math.h"
#include "runtime/saved/section_cover.h"
#include "runtime/saved/session_names.h"
#include "runtime/saved/session_store.h"

namespace duo {
namespace {

constexpr int64_t kPartBytes = int64_t{48} << 20;  // of one Step over all ranks
constexpr int kMostBegins = 4;                     // of a restore whose session another server saves meanwhile

}  // namespace

absl::StatusOr<std::unique_ptr<SaveJob>> SessionStore::StartSave(const std::string& id, SessionId session,
                                                                 const SessionManifest& meta, bool replace) {
  if (!ValidSessionId(id)) return absl::InvalidArgumentError(absl::StrCat("no session can be saved as \"", id, "\""));
  absl::StatusOr<SessionKv> kv = engine_->Kv(session);
  if (!kv.ok()) return kv.status();
  const std::string dir = DirOf(id);
  std::unique_ptr<SaveJob> job(new SaveJob());
  job->store_ = this;
  job->session_ = session;
  job->id_ = id;
  bool there = false;
  absl::StatusOr<int64_t> number = PrepareDirectory(id, &there);
  if (!number.ok()) return number.status();
  const absl::StatusOr<bool> known = StillThere(id);
  if (!known.ok()) return known.status();
  if (there && !*known && !replace) {
    return absl::AlreadyExistsError(absl::StrCat("there is another saved session ", id, " in ", dir_));
  }
  SessionManifest& m = job->manifest_ = ManifestOf(*kv, meta);
  int64_t valid = 0;
  const Lineage* lineage = *known ? &lineages_.at(id) : nullptr;
  if (lineage != nullptr) m.serial = lineage->manifest.serial + 1;
  // What is added to must be whole; else all is written anew, beside what is there until it is done.
  if (lineage != nullptr && lineage->session == session && lineage->manifest.kv_format == m.kv_format &&
      CheckFiles(*files_, dir, lineage->manifest).ok()) {
    m.sections = lineage->manifest.sections;
    m.generation = lineage->manifest.generation;
    valid = lineage->valid_tokens;
    job->former_tokens_ = lineage->manifest.token_file;
    job->former_append_ = lineage->manifest.append_file;
  } else if (there) {
    if (const absl::StatusOr<SessionManifest> old = ReadManifest(*files_, dir); old.ok()) {
      m.serial = std::max(m.serial, old->serial + 1);
    }
    number = HoldNumber(id, true);
    if (!number.ok()) return number.status();
  }
  // Not even to these may be added what another server has begun.
  for (SavedFile* file : {&job->former_tokens_, &job->former_append_}) {
    if (ParseSavedName(file->name).generation != *number) file->name.clear();
  }
  job->number_ = *number;
  job->begun_ = true;  // from here on there is something to undo

  // Sections that lie wholly beyond what is still valid go; the page that the valid part ends in is written again.
  const int64_t first = std::min(valid, m.tokens) / kPageTokens, end = CeilDiv(m.tokens, kPageTokens);
  std::erase_if(m.sections, [&](const KvSection& s) { return s.first >= first; });
  job->to_write_ = SectionsOf(engine_->partition(), first, end, kRangePages);
  std::map<std::string, int64_t> ends;
  for (KvSection& s : job->to_write_) {
    s.generation = static_cast<int32_t>(*number);
    const std::string name = PageFileName(s.generation, s.first / kRangePages);
    auto [at, added] = ends.emplace(name, 0);
    if (FileInfo info; added && files_->info(dir + "/" + name, &info) == 0) at->second = info.bytes;
    if (added) job->old_lengths_[name] = at->second;
    s.offset = at->second;
    at->second += SectionBytes(s, PageBytesOf(m));
  }
  return job;
}

SaveJob::~SaveJob() {
  if (begun_ && !committed_) store_->Undo(*this);
}

// The next sections, up to kPartBytes.
absl::Status SaveJob::WritePart() {
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
  for (int64_t bytes = 0; next_ < to_write_.size() && bytes < kPartBytes; ++next_) {
    plan.sections.push_back(to_write_[next_]);
    bytes += SectionBytes(to_write_[next_], PageBytesOf(manifest_));
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
  plan.dir = store_->DirOf(id_);
  plan.format = engine.kv_format();
  plan.ring = kv->ring;
  plan.rings = RingSectionsOf(engine.partition(), RingBytesOf(m));
  if (!plan.rings.empty()) {
    plan.rings_file = m.rings_file = SavedFileName(number_, SavedKind::kRings, m.serial);
    absl::StatusOr<KvIoResult> result = engine.RunIo(plan);
    if (!result.ok()) return result.status();
    bytes_written_ += result->bytes;
    for (size_t i = 0; i < plan.rings.size(); ++i) plan.rings[i].crc = result->ring_crcs[i];
    m.rings = plan.rings;
  }
  const std::string name = SavedFileName(number_, SavedKind::kTokens, m.serial);
  absl::StatusOr<SavedFile> tokens = WriteTokens(*store_->files_, store_->DirOf(id_), former_tokens_, name, kv->tokens);
  if (!tokens.ok()) return tokens.status();
  m.token_file = *tokens;
  bytes_written_ += m.token_file.bytes - (m.token_file.name == name ? 0 : former_tokens_.bytes);
  const bool unfinished = m.append.has_value() && !m.append->done;
  m.bytes = m.token_file.bytes + (unfinished ? m.append->total * 4 : 0) +
            static_cast<int64_t>(m.rings.size()) * RingBytesOf(m);
  for (const KvSection& s : m.sections) m.bytes += SectionBytes(s, PageBytesOf(m));
  const absl::Status done = store_->Commit(id_, number_, former_append_, true, &m, &committed_);
  if (!committed_) return done;
  SessionStore::Lineage& lineage = store_->lineages_[id_];
  lineage.session = session_;
  lineage.valid_tokens = m.tokens;
  lineage.manifest = m;
  if (m.append.has_value()) lineage.manifest.append->tokens.clear();
  const absl::StatusOr<FileState> state =
      StateOf(*store_->files_, absl::StrCat(store_->DirOf(id_), "/", kManifestName));
  if (state.ok()) lineage.state = *state;
  if (!done.ok()) return done;
  store_->Clean(id_, m, number_);
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

absl::StatusOr<std::unique_ptr<RestoreJob>> SessionStore::StartRestore(const std::string& id, int64_t max_tokens,
                                                                       bool as_copy) {
  std::unique_ptr<RestoreJob> job(new RestoreJob());
  job->store_ = this;
  job->id_ = id;
  job->max_tokens_ = max_tokens;
  job->as_copy_ = as_copy;
  if (absl::Status s = job->Begin(); !s.ok()) return s;
  return job;
}

absl::Status RestoreJob::Begin() {
  Engine& engine = *store_->engine_;
  const FileSystem& files = *store_->files_;
  const std::string dir = store_->DirOf(id_);
  ++begun_;
  next_ = 0;
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
  absl::StatusOr<SessionId> session = engine.Adopt(max_tokens, std::move(texts->tokens), m.rings_valid);
  if (!session.ok()) return session.status();
  session_ = *session;
  m.max_tokens = max_tokens;
  for (const auto& [name, length] : FilesOf(m)) names_.insert(name);
  store_->BeginReading(id_, names_);
  return absl::OkStatus();
}

void RestoreJob::End() {
  if (session_ != 0 && !done_) store_->engine_->CloseSession(session_).IgnoreError();
  if (session_ != 0) store_->EndReading(id_, names_);
  if (!done_) session_ = 0;
  names_.clear();
}

RestoreJob::~RestoreJob() {
  if (!done_) End();
}

absl::StatusOr<bool> RestoreJob::Step() {
  absl::StatusOr<bool> more = ReadPart();
  if (more.ok() || begun_ >= kMostBegins) return more;
  const absl::StatusOr<SessionManifest> now = ReadManifest(*store_->files_, store_->DirOf(id_));
  if (!now.ok() || (now->serial == manifest_.serial && now->generation == manifest_.generation)) return more;
  End();
  if (absl::Status s = Begin(); !s.ok()) return s;
  return false;
}

absl::StatusOr<bool> RestoreJob::ReadPart() {
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
  const bool last = next_ == to_read_.size();
  if (last) {
    plan.ring = kv->ring;
    plan.rings = manifest_.rings;
    plan.rings_file = manifest_.rings_file;
  }
  absl::StatusOr<KvIoResult> result = engine.RunIo(plan);
  if (!result.ok()) return result.status();
  bytes_read_ += result->bytes;
  if (!last) return false;
  if (!as_copy_) {
    SessionStore::Lineage lineage;
    lineage.session = session_;
    lineage.valid_tokens = manifest_.tokens;
    lineage.manifest = manifest_;
    if (lineage.manifest.append.has_value()) lineage.manifest.append->tokens.clear();
    // What a save does next compares it with what is then on the disk.
    SessionStore::Lineage& known = store_->lineages_[id_];
    if (known.manifest.serial <= manifest_.serial || known.session == 0) known = std::move(lineage);
  }
  done_ = true;
  End();
  return true;
}

}  // namespace duo
