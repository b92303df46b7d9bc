// How the store changes what is on the disk: the commit of a manifest, what is cleaned up behind it, and what is undone
// (session_store.h).
#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "runtime/files/crc32c.h"
#include "runtime/files/token_chain.h"
#include "runtime/saved/session_names.h"
#include "runtime/saved/session_store.h"

namespace duo {

// Makes the session's directory the store's and this server its holder. `there`: it has a manifest.
absl::StatusOr<int64_t> SessionStore::PrepareDirectory(const std::string& id, bool* there) {
  const std::string dir = DirOf(id);
  FileInfo info;
  if (files_->info(dir_, &info) != 0) {  // it was there when the server began
    if (absl::Status s = MakeDirectories(*files_, dir_); !s.ok()) return s;
  }
  if (const int failed = files_->make_directory(dir); failed != 0 && failed != -EEXIST) {
    return FileError(-failed, dir, "make this directory");
  }
  if (absl::Status s = OwnDirectory(*files_, dir); !s.ok()) return s;
  const absl::StatusOr<FileState> state = StateOf(*files_, absl::StrCat(dir, "/", kManifestName));
  *there = state.ok();
  if (!state.ok() && !absl::IsNotFound(state.status())) return state.status();
  if (!*there) {
    // The marker comes first: files that it does not stand beside would be nobody's. And a directory that an
    // interrupted save made may not be on the disk yet.
    if (absl::Status s = SyncDir(*files_, dir); !s.ok()) return s;
    if (absl::Status s = SyncDir(*files_, dir_); !s.ok()) return s;
  } else if (absl::Status s = MakeSynced(id); !s.ok()) {
    return s;
  }
  return HoldNumber(id, false);
}

absl::Status SessionStore::MakeSynced(const std::string& id) {
  if (unsynced_.count(id) == 0) return absl::OkStatus();
  if (absl::Status s = SyncDir(*files_, DirOf(id)); !s.ok()) return s;
  unsynced_.erase(id);
  return absl::OkStatus();
}

absl::StatusOr<bool> SessionStore::StillThere(const std::string& id) {
  const auto lineage = lineages_.find(id);
  if (lineage == lineages_.end()) return false;
  const std::string name = absl::StrCat(DirOf(id), "/", kManifestName);
  const absl::StatusOr<FileState> state = StateOf(*files_, name);
  if (absl::IsNotFound(state.status())) {  // the directory was cleaned under the server
    lineages_.erase(lineage);
    unsynced_.erase(id);
    return false;
  }
  if (!state.ok()) return state.status();
  Lineage& l = lineage->second;
  if (!(*state == l.state)) {
    const absl::StatusOr<SessionManifest> m = ReadManifest(*files_, DirOf(id));
    if (!m.ok()) return m.status();
    if (m->generation != l.manifest.generation || m->serial != l.manifest.serial) {
      return absl::FailedPreconditionError(absl::StrCat(name,
                                                        " was changed by another server since this one wrote it (save ",
                                                        m->serial, ", expected ", l.manifest.serial, ")"));
    }
    l.state = *state;
  }
  return true;
}

absl::Status SessionStore::Commit(const std::string& id, int64_t number, const SavedFile& former_append, bool whole,
                                  SessionManifest* m, bool* committed) {
  *committed = false;
  const std::string dir = DirOf(id);
  const bool unfinished = m->append.has_value() && !m->append->done;
  bool new_names = m->sections_file.name.empty();
  m->append_file = {};
  if (unfinished) {
    const std::string name = SavedFileName(number, SavedKind::kAppend, m->serial);
    const bool own = ParseSavedName(former_append.name).generation == number;
    absl::StatusOr<SavedFile> file =
        WriteTokens(*files_, dir, own ? former_append : SavedFile(), name, m->append->tokens);
    if (!file.ok()) return file.status();
    m->append_file = std::move(*file);
    new_names |= m->append_file.name == name;
  }
  if (m->sections_file.name.empty()) {
    const std::string name = SavedFileName(number, SavedKind::kSections, m->serial), bytes = FormatSections(*m);
    if (absl::Status s = WriteAll(*files_, dir + "/" + name, bytes); !s.ok()) return s;
    m->sections_file = {name, static_cast<int64_t>(bytes.size()), Crc32c(bytes.data(), bytes.size())};
  }
  m->version = kSessionFormatVersion;
  m->generation = static_cast<int>(std::max<int64_t>(m->generation, number));
  if (new_names) {
    if (absl::Status s = SyncDir(*files_, dir); !s.ok()) return s;
  }
  const auto check = [&]() -> absl::Status {
    // Last of all: this server may still write, and what it is about to name has not been taken away meanwhile.
    if (absl::Status s = lease_->Check(dir, number); !s.ok()) return s;
    return whole ? CheckFiles(*files_, dir, *m) : absl::OkStatus();
  };
  absl::Status replaced = ReplaceManifest(*files_, dir, *m, check, committed);
  if (!*committed) return replaced;
  if (replaced.ok()) {
    unsynced_.erase(id);
  } else {
    unsynced_.insert(id);
  }
  const absl::StatusOr<FileState> state = StateOf(*files_, absl::StrCat(dir, "/", kManifestName));
  index_->Set(id, *m, state.ok() ? *state : FileState());
  if (const auto lineage = lineages_.find(id); lineage != lineages_.end()) {
    Lineage& l = lineage->second;
    l.manifest = *m;
    if (l.manifest.append.has_value()) l.manifest.append->tokens.clear();
    l.state = state.ok() ? *state : FileState();
  }
  return replaced;
}

// The saved session as this server may change it: whole, held, of a version that it can write on.
absl::StatusOr<SessionManifest> SessionStore::CurrentManifest(const std::string& id) {
  absl::StatusOr<bool> known = StillThere(id);
  if (!known.ok()) return known.status();
  if (absl::Status s = MakeSynced(id); !s.ok()) return s;
  absl::StatusOr<SessionManifest> m = *known ? lineages_.at(id).manifest : ReadWhole(id);
  if (!m.ok()) return m.status();
  if (m->version < kOldestRestoredVersion) return CheckUsable(*m, DirOf(id));
  ++m->serial;
  return m;
}

absl::Status SessionStore::RewindSaved(const std::string& id, int64_t tokens, const SessionManifest& meta) {
  FileInfo info;
  if (files_->info(absl::StrCat(DirOf(id), "/", kManifestName), &info) == -ENOENT) return absl::OkStatus();
  const absl::StatusOr<int64_t> number = HoldNumber(id, false);
  if (!number.ok()) return number.status();
  absl::StatusOr<SessionManifest> m = CurrentManifest(id);
  if (!m.ok()) return m.status();
  if (absl::Status s = CheckUsable(*m, DirOf(id)); !s.ok()) return s;
  // What the open session was cut to before goes for what is saved too, where that cut could not be written.
  if (const auto lineage = lineages_.find(id); lineage != lineages_.end()) {
    tokens = std::min(tokens, lineage->second.valid_tokens);
  }
  if (tokens < m->tokens) {
    absl::StatusOr<std::vector<int32_t>> all = ReadTokens(*files_, DirOf(id), m->token_file);
    if (!all.ok()) return all.status();
    m->tokens = tokens;
    m->rings_valid = false;
    m->hash_chain.resize(std::min<size_t>(m->hash_chain.size(), tokens / kChainTokens));
    m->token_file.bytes = tokens * 4;
    m->token_file.crc = Crc32c(all->data(), tokens * 4);
  }
  const SavedFile former_append = m->append_file;
  m->max_tokens = std::max(meta.max_tokens, m->tokens);
  m->reserved_tokens = meta.reserved_tokens;
  m->durable = meta.durable;
  m->pinned = meta.pinned;
  m->open = meta.open;
  m->append = meta.append;
  m->owner = meta.owner;
  m->text = meta.text;
  m->more.clear();  // it may tell of what is gone
  if (m->version < 3) m->sections_file = {};
  bool committed = false;
  absl::Status done = Commit(id, *number, former_append, true, &*m, &committed);
  if (committed) Rewound(id, tokens);
  if (done.ok()) Clean(id, *m, *number);
  return done;
}

absl::Status SessionStore::SetOpen(const std::string& id, bool open) {
  const absl::StatusOr<SavedSession> known = Find(id);
  if (!known.ok()) return known.status();
  if (!known->manifest.ok()) return known->manifest.status();
  if (known->manifest->open == open) return MakeSynced(id);
  const absl::StatusOr<int64_t> number = HoldNumber(id, false);
  if (!number.ok()) return number.status();
  absl::StatusOr<SessionManifest> m = CurrentManifest(id);
  if (!m.ok()) return m.status();
  m->open = open;
  const SavedFile former_append = m->append_file;
  if (m->append.has_value() && !m->append->done) {
    absl::StatusOr<std::vector<int32_t>> tokens = ReadTokens(*files_, DirOf(id), m->append_file);
    if (!tokens.ok()) return tokens.status();
    m->append->tokens = std::move(*tokens);
  }
  bool committed = false;
  return Commit(id, *number, former_append, false, &*m, &committed);
}

absl::Status SessionStore::Delete(const std::string& id) {
  const std::string dir = DirOf(id), name = absl::StrCat(dir, "/", kManifestName);
  if (absl::Status s = Hold(id); !s.ok()) return s;
  lineages_.erase(id);
  if (const int failed = files_->unlink(name); failed != 0 && failed != -ENOENT) {
    return FileError(-failed, name, "delete it");
  }
  index_->Erase(id);  // from here on it is gone
  if (absl::Status s = SyncDir(*files_, dir); !s.ok()) return s;
  RemoveSession(id);
  return absl::OkStatus();
}

// Deletes what no manifest names: all of the store's files but those that a restore still reads. Foreign files stay,
// and then the directory does too.
void SessionStore::RemoveSession(const std::string& id) {
  const std::string dir = DirOf(id);
  const std::set<std::string> reading = ReadingOf(id);
  RemoveFiles(*files_, dir, reading, int64_t{1} << 62);
  lease_->GiveBack(dir);
  held_.erase(id);
  // The marker goes last, when nothing is left that it vouches for, and stays beside whatever is.
  std::vector<std::string> names;
  files_->list(dir, &names);
  if (names != std::vector<std::string>{kMarkerName} || !SyncDir(*files_, dir).ok()) return;
  files_->unlink(absl::StrCat(dir, "/", kMarkerName));
  files_->remove_directory(dir);
}

void SessionStore::Clean(const std::string& id, const SessionManifest& m, int64_t number) {
  std::set<std::string> keep = ReadingOf(id);
  keep.insert(kManifestName);
  for (const auto& [name, length] : FilesOf(m)) keep.insert(name);
  RemoveFiles(*files_, DirOf(id), keep, number);
}

// What a save wrote is not named by any manifest: files that were added to get their old length back, new ones go.
void SessionStore::Undo(const std::string& id, int64_t number, const std::map<std::string, int64_t>& old_lengths) {
  const std::string dir = DirOf(id);
  if (!lease_->Check(dir, number).ok()) return;
  for (const auto& [name, length] : old_lengths) {
    if (length > 0) files_->truncate(absl::StrCat(dir, "/", name), length);
  }
  const absl::StatusOr<SessionManifest> m = ReadWhole(id);
  if (m.ok()) return Clean(id, *m, number);
  if (absl::IsNotFound(m.status())) RemoveSession(id);
}

}  // namespace duo
