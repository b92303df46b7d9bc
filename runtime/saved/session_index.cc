#include "runtime/saved/session_index.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/saved/session_names.h"

namespace duo {
namespace {

// What is remembered of a manifest: the rest is read when it is restored.
SessionManifest Kept(const SessionManifest& m) {
  SessionManifest kept = m;
  kept.sections = {};
  kept.rings = {};
  if (kept.append.has_value()) kept.append->tokens = {};
  return kept;
}

bool Rereadable(const absl::StatusOr<SessionManifest>& m) { return m.ok() && !m->token_file.name.empty(); }

}  // namespace

SessionIndex::SessionIndex(const FileSystem& files, const std::string& dir, ServerLease& lease, Usable usable)
    : files_(files), dir_(dir), lease_(lease), usable_(std::move(usable)) {}

void SessionIndex::Refresh() {
  std::vector<std::string> names;
  if (files_.list(dir_, &names) != 0) return;  // what was known stays so
  std::set<std::string> there;
  for (const std::string& name : names) {
    if (!ValidSessionId(name)) continue;
    there.insert(name);
    Refresh(name);
  }
  std::vector<std::string> gone;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      if (there.count(id) == 0) gone.push_back(id);
    }
  }
  for (const std::string& id : gone) Refresh(id);
}

void SessionIndex::Refresh(const std::string& id) {
  const std::string dir = dir_ + "/" + id, name = absl::StrCat(dir, "/", kManifestName);
  int64_t version;
  std::optional<Entry> known;
  {
    std::lock_guard lock(mutex_);
    version = version_;
    if (const auto found = entries_.find(id); found != entries_.end()) known = found->second;
  }
  Entry entry;
  entry.session.id = id;
  const absl::StatusOr<FileState> state = StateOf(files_, name);
  if (state.ok() && known.has_value() && known->state == *state) {
    entry = *known;
  } else if (state.ok()) {
    entry.state = *state;
    entry.session.manifest = ReadManifest(files_, dir);
    if (!entry.session.manifest.ok() && !CheckOwned(files_, dir).ok()) return Put(id, Entry(), version);
    if (entry.session.manifest.ok()) {
      *entry.session.manifest = Kept(*entry.session.manifest);
      entry.session.usable = usable_(*entry.session.manifest, dir);
    } else {
      entry.session.usable = entry.session.manifest.status();
    }
    entry.session.rereadable = Rereadable(entry.session.manifest);
  } else if (absl::IsNotFound(state.status())) {
    return Put(id, Entry(), version);
  } else {
    entry.session.manifest = entry.session.usable = state.status();
  }
  entry.session.held_by = lease_.HeldBy(dir);
  Put(id, std::move(entry), version);
}

// An entry without id: there is no such session.
void SessionIndex::Put(const std::string& id, Entry entry, int64_t version) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  const auto erased = erased_.find(id);
  if (found != entries_.end() && found->second.version > version) return;  // newer than what was looked at
  if (erased != erased_.end() && erased->second > version) return;
  erased_.erase(id);
  if (entry.session.id.empty()) {
    entries_.erase(id);
  } else {
    entry.version = version;
    entries_[id] = std::move(entry);
  }
}

void SessionIndex::Set(const std::string& id, const SessionManifest& manifest, const FileState& state) {
  Entry entry;
  entry.session.id = id;
  entry.session.manifest = Kept(manifest);
  entry.session.usable = usable_(manifest, dir_ + "/" + id);
  entry.session.rereadable = Rereadable(entry.session.manifest);
  entry.state = state;
  std::lock_guard lock(mutex_);
  entry.version = ++version_;
  entries_[id] = std::move(entry);
  erased_.erase(id);
}

void SessionIndex::Erase(const std::string& id) {
  std::lock_guard lock(mutex_);
  entries_.erase(id);
  erased_[id] = ++version_;
}

std::vector<SavedSession> SessionIndex::List() const {
  std::lock_guard lock(mutex_);
  std::vector<SavedSession> all;
  for (const auto& [id, entry] : entries_) all.push_back(entry.session);
  return all;
}

std::optional<SavedSession> SessionIndex::Find(const std::string& id) const {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return std::nullopt;
  return found->second.session;
}

}  // namespace duo
