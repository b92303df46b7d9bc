// SessionIndex: what is saved in a directory, in memory, so that whoever lists sessions waits for no disk. What this
// server saves it is told; what others save it finds when it looks again, which parses only what has changed.
// Thread-safe: one thread looks, another asks.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/saved/server_lease.h"
#include "runtime/saved/session_files.h"
#include "runtime/saved/session_manifest.h"

namespace duo {

struct SavedSession {
  std::string id;
  // Without sections, rings and tokens; else why it cannot be read.
  absl::StatusOr<SessionManifest> manifest = absl::UnknownError("not looked at yet");
  absl::Status usable;      // else why this server cannot restore it: another model, damaged, ..
  bool rereadable = false;  // its tokens are there, so a server can read it again
  std::string held_by;      // another server that works on it: "host H, process P"
};

class SessionIndex {
 public:
  // usable: whether this server could restore it, by the manifest alone. Called with no lock held.
  using Usable = std::function<absl::Status(const SessionManifest& manifest, const std::string& dir)>;
  SessionIndex(const FileSystem& files, const std::string& dir, ServerLease& lease, Usable usable);

  void Refresh();                       // everything
  void Refresh(const std::string& id);  // this one
  // What this server has just put there, or deleted.
  void Set(const std::string& id, const SessionManifest& manifest, const FileState& state);
  void Erase(const std::string& id);

  std::vector<SavedSession> List() const;  // by id
  std::optional<SavedSession> Find(const std::string& id) const;

 private:
  struct Entry {
    SavedSession session;
    FileState state;
    int64_t version = 0;
  };
  void Put(const std::string& id, Entry entry, int64_t version);

  const FileSystem& files_;
  const std::string dir_;
  ServerLease& lease_;
  const Usable usable_;
  mutable std::mutex mutex_;  // guards what follows
  std::map<std::string, Entry> entries_;
  int64_t version_ = 0;                    // of the newest Set or Erase
  std::map<std::string, int64_t> erased_;  // their versions
};

}  // namespace duo
