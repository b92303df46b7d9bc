// SaveJob and RestoreJob: a save and a restore under way, made by SessionStore and done part by part. The store must
// outlive them. They belong to the engine's thread, and none of their calls waits for a disk if the store has a thread
// for that: while a part is at the disk, Step does nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "runtime/saved/session_manifest.h"

namespace duo {

class DiskThread;
class SessionStore;

constexpr int64_t kPartBytes = int64_t{48} << 20;  // of one Step over all ranks

// What a job has at the disk: something of the store's, or pages and rings on every rank. One at a time.
class JobPart {
 public:
  explicit JobPart(SessionStore& store);
  ~JobPart();  // waits for it, and drops what it read
  void AtDisk(std::function<absl::Status()> work);
  void OnRanks(KvIoPlan plan);
  // Nothing is at the disk any more. `keep`: what was read goes to its session.
  bool Ended(bool keep = true);
  bool waits() const;  // nothing to do until the disk is done
  // When it has ended.
  const absl::Status& status() const { return status_; }
  const KvIoResult& result() const { return result_; }

 private:
  enum class Kind { kNone, kDisk, kNext, kRanks };  // kNext: others' pages are at the disk
  void Begin();

  Engine& engine_;
  DiskThread& disk_;
  Kind kind_ = Kind::kNone;
  std::atomic<bool> working_{false};  // kDisk
  KvIoPlan plan_;                     // kNext
  absl::Status status_;
  KvIoResult result_;
};

// A save under way. Destroying it before Step said true undoes it, unless its manifest is in place already.
class SaveJob {
 public:
  ~SaveJob();
  // Goes on with it, some tens of milliseconds. True: the save is complete and durable. After an error: destroy it.
  absl::StatusOr<bool> Step();
  bool waits() const { return part_.waits(); }  // Step would do nothing
  // For whoever wants no more of it: true when it can be destroyed without a wait. Until then ask again; no more Step.
  bool Drop() { return part_.Ended(false); }

  // When Step said true.
  int64_t bytes_written() const { return bytes_written_; }
  int64_t bytes_total() const { return manifest_.bytes; }
  int64_t tokens() const { return manifest_.tokens; }

 private:
  friend class SessionStore;
  enum class Phase { kPrepare, kPages, kRings, kCommit };
  explicit SaveJob(SessionStore& store) : store_(&store), part_(store) {}
  absl::Status Take();  // what has ended
  absl::Status Next();
  absl::Status Prepare();
  absl::Status WritePages();
  KvIoPlan WritePlan() const;
  absl::Status WriteRings();
  absl::Status Commit();

  SessionStore* store_ = nullptr;
  SessionId session_ = 0;
  std::string id_;
  bool replace_ = false;
  Phase phase_ = Phase::kPrepare;
  std::vector<int32_t> tokens_;
  int64_t number_ = 0;  // of the lock, and so of the files that it writes
  SessionManifest manifest_;
  SavedFile former_tokens_, former_append_;     // may be added to
  std::vector<KvSection> to_write_;             // manifest_.sections still to be written, in order
  size_t next_ = 0, begun_sections_ = 0;        // up to where they are given to the disk; the last of those not taken
  std::map<std::string, int64_t> old_lengths_;  // of the page files that it writes; 0: new
  bool taken_ = false, begun_ = false, committed_ = false;
  int64_t bytes_written_ = 0;
  JobPart part_;  // works on the rest, so it ends first
};

// A restore under way. Destroying it before Step said true closes the half-filled session.
class RestoreJob {
 public:
  ~RestoreJob();
  // As SaveJob's. A save of the same session by another server meanwhile begins it again.
  absl::StatusOr<bool> Step();
  bool waits() const { return part_.waits(); }
  bool Drop() { return part_.Ended(false); }

  // When Step said true.
  SessionId session() const { return session_; }
  const SessionManifest& manifest() const { return manifest_; }
  int64_t bytes_read() const { return bytes_read_; }

 private:
  friend class SessionStore;
  enum class Phase { kBegin, kAgain, kPages, kEnd };
  explicit RestoreJob(SessionStore& store) : store_(&store), part_(store) {}
  absl::Status Begin();
  absl::Status Adopt();
  absl::Status ReadPages();
  absl::Status Remember();
  bool End();
  void GiveUp();

  SessionStore* store_ = nullptr;
  SessionId session_ = 0;
  std::string id_;
  int64_t max_tokens_ = 0;  // 0: as saved
  bool as_copy_ = false;
  std::optional<std::string> realm_;  // of a prefix
  Phase phase_ = Phase::kBegin;
  SessionManifest manifest_;
  std::vector<int32_t> tokens_;
  std::vector<KvSection> to_read_;
  std::set<std::string> names_;  // the files that it needs, while they are kept for it
  size_t next_ = 0;
  bool last_ = false;  // all of it is given to the disk
  int begun_ = 0;
  bool changed_ = false;  // the session on the disk is another than the one that was begun
  absl::Status failed_;   // why that was looked at
  bool done_ = false;
  int64_t bytes_read_ = 0;
  JobPart part_;
};

}  // namespace duo
