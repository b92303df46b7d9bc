// SessionStore: sessions on disk, one directory each, readable by any number of ranks on any backend.
//
//   DIR/ID/manifest          JSON and a line with its CRC32C: format version, model fingerprint, head classes, KV
//                            format, sizes and where every section lies. Replaced atomically; a directory without one
//                            is no session. Whatever it does not name is left over from an interrupted save.
//   DIR/ID/GEN-pages-RANGE   one file per 65,536 tokens, only ever appended to: sections of (layer, KV head, first
//                            page, page step, page count): the pages, then a CRC32C of each. The manifest holds a
//                            CRC32C of those CRCs. A later section of the same page counts.
//   DIR/ID/GEN-rings-N       the streaming heads' rings at that save, a CRC32C each in the manifest
//   DIR/ID/GEN-tokens-N      token ids, int32 little-endian; and those of an append that is not finished
//
// Each rank writes and reads what it holds itself if it sees the directory; otherwise rank 0 does it for all. Saving
// and restoring are jobs of many short parts, so that steps of other sessions run in between. A save that fails leaves
// the former one as it was; a restore that fails leaves nothing.
//
// Used on rank 0, on the thread that owns the engine; the other ranks take part from Engine::Follow. Errors:
// NOT_FOUND; DATA_LOSS (damaged, with the file and the place); FAILED_PRECONDITION (another model, other head classes,
// another KV format, a newer format version); RESOURCE_EXHAUSTED (disk full; no room in the cache, with the numbers);
// PERMISSION_DENIED.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "runtime/saved/session_manifest.h"

namespace duo {

// How a saved session and the open one that it was made from or restored into hang together: what is on disk already.
struct SavedLineage {
  SessionId session = 0;
  int64_t valid_tokens = 0;  // the saved pages are the open session's up to here
  SessionManifest manifest;
};

// Bytes of a page and of a ring of one head: those on the disk and those in memory are the same.
int64_t SavedPageBytes(const Engine& engine);
int64_t SavedRingBytes(const Engine& engine);

class SessionStore;

// A save under way. Destroying it before Step said true undoes it.
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
  std::string dir_;
  SessionManifest manifest_;
  std::vector<KvSection> to_write_;  // manifest_.sections still to be written, in order
  size_t next_ = 0;
  std::map<std::string, int64_t> old_lengths_;  // of the page files that are appended to; the others are new
  bool fresh_ = false;                          // nothing of an older save is used
  bool done_ = false;
  int64_t bytes_written_ = 0;
};

// A restore under way. Destroying it before Step said true closes the half-filled session.
class RestoreJob {
 public:
  ~RestoreJob();
  absl::StatusOr<bool> Step();

  SessionId session() const { return session_; }
  const SessionManifest& manifest() const { return manifest_; }
  int64_t bytes_read() const { return bytes_read_; }

 private:
  friend class SessionStore;
  RestoreJob() = default;

  SessionStore* store_ = nullptr;
  SessionId session_ = 0;
  std::string dir_;
  SessionManifest manifest_;
  size_t next_ = 0;
  bool done_ = false;
  int64_t bytes_read_ = 0;
};

class SessionStore {
 public:
  // Creates the directory if need be and finds out whether every rank sees it. `engine` must outlive the store.
  static absl::StatusOr<std::unique_ptr<SessionStore>> Open(const std::string& dir, const std::string& model_dir,
                                                            Engine& engine);

  // What is there; damaged ones come as their error.
  struct Listed {
    std::string id;
    absl::StatusOr<SessionManifest> manifest;
  };
  std::vector<Listed> List() const;
  absl::StatusOr<SessionManifest> Find(const std::string& id) const;
  bool Exists(const std::string& id) const;

  // Writes the session as it is now; it must not change until the job is done. `meta` gives what the engine does not
  // know: max_tokens, durable, open, append.
  absl::StatusOr<std::unique_ptr<SaveJob>> StartSave(const std::string& id, SessionId session,
                                                     const SessionManifest& meta);
  // max_tokens 0: as saved.
  absl::StatusOr<std::unique_ptr<RestoreJob>> StartRestore(const std::string& id, int64_t max_tokens);

  // The open session was cut to `tokens`: what is saved beyond must be written again.
  void Rewound(const std::string& id, int64_t tokens);
  // The open session is gone: the next save under this id is a new one.
  void Forget(const std::string& id) { lineages_.erase(id); }
  absl::Status SetOpen(const std::string& id, bool open);
  absl::Status Delete(const std::string& id);

  bool shared() const { return shared_; }

 private:
  friend class SaveJob;
  friend class RestoreJob;
  SessionStore() = default;
  std::string DirOf(const std::string& id) const { return dir_ + "/" + id; }
  absl::Status CheckFits(const SessionManifest& manifest, const std::string& dir) const;

  std::string dir_, fingerprint_;
  Engine* engine_ = nullptr;
  bool shared_ = true;
  std::map<std::string, SavedLineage> lineages_;
};

}  // namespace duo
