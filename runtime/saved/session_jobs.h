// SaveJob and RestoreJob: a save and a restore under way, made by SessionStore and done part by part on its thread. The
// store must outlive them.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "runtime/saved/session_manifest.h"

namespace duo {

class SessionStore;

// A save under way. Destroying it before Step said true undoes it, unless its manifest is in place already.
class SaveJob {
 public:
  ~SaveJob();
  // Does one part, some tens of milliseconds. True: the save is complete and durable. After an error: destroy it.
  absl::StatusOr<bool> Step();

  int64_t bytes_written() const { return bytes_written_; }
  int64_t bytes_total() const { return manifest_.bytes; }
  int64_t tokens() const { return manifest_.tokens; }

 private:
  friend class SessionStore;
  SaveJob() = default;
  absl::Status WritePart();
  absl::Status Finish();

  SessionStore* store_ = nullptr;
  SessionId session_ = 0;
  std::string id_;
  int64_t number_ = 0;  // of the lock, and so of the files that it writes
  SessionManifest manifest_;
  SavedFile former_tokens_, former_append_;  // may be added to
  std::vector<KvSection> to_write_;          // manifest_.sections still to be written, in order
  size_t next_ = 0;
  std::map<std::string, int64_t> old_lengths_;  // of the page files that it writes; 0: new
  bool begun_ = false, committed_ = false;
  int64_t bytes_written_ = 0;
};

// A restore under way. Destroying it before Step said true closes the half-filled session.
class RestoreJob {
 public:
  ~RestoreJob();
  // As SaveJob's. A save of the same session by another server meanwhile begins it again.
  absl::StatusOr<bool> Step();

  // When Step said true.
  SessionId session() const { return session_; }
  const SessionManifest& manifest() const { return manifest_; }
  int64_t bytes_read() const { return bytes_read_; }

 private:
  friend class SessionStore;
  RestoreJob() = default;
  absl::Status Begin();
  void End();
  absl::StatusOr<bool> ReadPart();

  SessionStore* store_ = nullptr;
  SessionId session_ = 0;
  std::string id_;
  int64_t max_tokens_ = 0;  // 0: as saved
  bool as_copy_ = false;
  SessionManifest manifest_;
  std::vector<KvSection> to_read_;
  std::set<std::string> names_;  // the files that it needs
  size_t next_ = 0;
  int begun_ = 0;
  bool done_ = false;
  int64_t bytes_read_ = 0;
};

}  // namespace duo
