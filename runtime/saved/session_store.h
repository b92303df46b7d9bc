// SessionStore: sessions on disk, one directory each, readable by any number of ranks on any backend.
//
//   DIR/ID/manifest            JSON and a line with its CRC32C: format version, model fingerprint, head classes, KV
//                              format, sizes and the names of the files below. Replaced by one rename, which is the
//                              commit point: before it the former save stands whole, after it the new one. A directory
//                              without one is no session. Whatever it does not name is left over.
//   DIR/ID/GEN-pages-RANGE     one file per 65,536 tokens and generation, only ever appended to: sections of (layer, KV
//                              head, first page, page step, page count): the pages, then a CRC32C of each. The section
//                              holds a CRC32C of those CRCs. A later section of the same page counts.
//   DIR/ID/GEN-sections-N      where every section and ring lies (session_manifest.h)
//   DIR/ID/GEN-rings-N         the streaming heads' rings at save N, a CRC32C each
//   DIR/ID/GEN-tokens-N        token ids, int32 little-endian, appended to while they only grow
//   DIR/ID/GEN-append-N        those of an append that is not finished
//   DIR/ID/.duo-session        the directory is the store's. Only there, and only names of these forms, is anything
//                              ever changed or deleted.
//   DIR/ID/GEN-lock            a server holds the session (server_lease.h). GEN is the number it got with it: whoever
//                              holds it later writes files of a higher one.
//
// Each rank writes and reads what it holds itself if it sees the directory; otherwise rank 0 does it for all. Saving
// and restoring are jobs of many short parts, so that steps of other sessions run in between. A save that fails leaves
// the former one as it was; a restore that fails leaves nothing. Several servers may share DIR; each session is held by
// one of them at a time.
//
// Used on rank 0. Jobs and what is said so below belong to the engine's thread; all else asks the disk or what is known
// of it, and belongs to the disk's: Do. A store that is not `threaded` has no such thread, and does all at once where
// it is called. The other ranks take part from Engine::Follow. Another thread of the store's own beats the lease and
// looks what other servers saved. Errors: NOT_FOUND; DATA_LOSS (damaged, with the file and the place);
// FAILED_PRECONDITION (another model, other head classes, another KV format, a newer format version; a directory that
// is not the store's; held by another server, with its host); ALREADY_EXISTS; RESOURCE_EXHAUSTED (disk full; no room in
// the cache, with the numbers); PERMISSION_DENIED.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "runtime/files/disk_thread.h"
#include "runtime/saved/server_lease.h"
#include "runtime/saved/session_files.h"
#include "runtime/saved/session_index.h"
#include "runtime/saved/session_jobs.h"
#include "runtime/saved/session_manifest.h"

namespace duo {

struct StoreOptions {
  const FileSystem* files = nullptr;  // of rank 0's small files; null: the machine's. Page files: EngineOptions::files
  LeaseOptions lease;
  bool threaded = false;    // nothing on the engine's thread waits for a disk
  double look_seconds = 5;  // how often others' sessions are looked for; 0: only when Refresh is called
};

class SessionStore {
 public:
  // Creates the directory if need be and finds out whether every rank sees it. `engine` must outlive the store.
  static absl::StatusOr<std::unique_ptr<SessionStore>> Open(const std::string& dir, const std::string& model_dir,
                                                            Engine& engine, StoreOptions options = {});
  ~SessionStore();  // gives back what it holds

  // What is there, of any model and state, from memory: see SavedSession. By id. Any thread.
  std::vector<SavedSession> List() const { return index_->List(); }
  std::optional<SavedSession> Known(const std::string& id) const { return index_->Find(id); }
  bool Exists(const std::string& id) const { return Known(id).has_value(); }

  // Work for the disk's thread, in order; `done` follows in Deliver. Any thread.
  void Do(std::function<void()> work, std::function<void()> done = {}) const {
    disk_->Run(std::move(work), std::move(done));
  }
  bool Deliver() { return disk_->Deliver(); }  // on the engine's thread; true: there was something
  void WaitForDisk() const { disk_->Wait(); }
  bool quiet() const { return disk_->idle() && !disk_->due(); }
  bool due() const { return disk_->due(); }
  // Called when the disk has done something, on its thread. Empty: nobody, from when it returns.
  void Tell(std::function<void()> tell) { disk_->Tell(std::move(tell)); }

  // One that is known, or that another server has just saved. NOT_FOUND.
  absl::StatusOr<SavedSession> Find(const std::string& id) const;
  void Refresh() { index_->Refresh(); }
  absl::Status Beat() { return lease_->Beat(); }  // Refresh and Beat: what the store's thread does; any thread

  // This server works on the session from now on and no other does, until Release. Saving and restoring do it too.
  absl::Status Hold(const std::string& id);
  void Release(const std::string& id);

  // Writes the session as it is now; it must not change until the job is done. On the engine's thread, as StartRestore;
  // errors may come with the job's first Step. `meta` gives what the engine does not
  // know: max_tokens, durable, open, append, owner, text. A saved session that this one was neither restored from
  // nor saved to is overwritten only when `replace` says so, else ALREADY_EXISTS.
  absl::StatusOr<std::unique_ptr<SaveJob>> StartSave(const std::string& id, SessionId session,
                                                     const SessionManifest& meta, bool replace = false);
  // max_tokens 0: as saved. `as_copy`: it will live under another id, and this one is neither held nor written.
  absl::StatusOr<std::unique_ptr<RestoreJob>> StartRestore(const std::string& id, int64_t max_tokens,
                                                           bool as_copy = false);
  // The same as a prefix of this realm (Engine::AdoptPrefix), which prompts meet when the job is done.
  absl::StatusOr<std::unique_ptr<RestoreJob>> StartRestorePrefix(const std::string& id, const std::string& realm);
  // What a session is read again from where its pages are of no use: its tokens, and an unfinished append's in its
  // manifest. Of any model, KV format and version whose manifest can be read.
  struct Texts {
    SessionManifest manifest;
    std::vector<int32_t> tokens;
  };
  absl::StatusOr<Texts> ReadTexts(const std::string& id);

  // The open session was cut to `tokens`: what is saved beyond must be written again.
  void Rewound(const std::string& id, int64_t tokens);
  // The saved session is cut to `tokens`, or to fewer that Rewound told of since it was saved, if it has more, with
  // what `meta` says of it (as in StartSave): durable when it returns OK, without a page written, whether the session
  // is open here or not.
  absl::Status RewindSaved(const std::string& id, int64_t tokens, const SessionManifest& meta);
  // The open session is gone from memory: the next save under this id is a new one.
  void Forget(const std::string& id) { lineages_.erase(id); }
  absl::Status SetOpen(const std::string& id, bool open);
  absl::Status Delete(const std::string& id);

  bool shared() const { return shared_; }

 private:
  friend class JobPart;
  friend class SaveJob;
  friend class RestoreJob;
  // How a saved session and the open one that it was made from or restored into hang together.
  struct Lineage {
    SessionId session = 0;
    int64_t valid_tokens = 0;  // the saved pages are the open session's up to here
    SessionManifest manifest;  // as it stands on the disk
    FileState state;           // of its file
  };
  SessionStore() = default;
  absl::StatusOr<std::unique_ptr<RestoreJob>> Begin(const std::string& id, std::unique_ptr<RestoreJob> job);
  std::string DirOf(const std::string& id) const { return dir_ + "/" + id; }
  absl::Status CheckUsable(const SessionManifest& manifest, const std::string& dir) const;
  absl::Status CheckRings(const SessionManifest& manifest, const std::string& dir) const;
  absl::StatusOr<int64_t> HoldNumber(const std::string& id, bool anew);
  // Whole from the disk; DATA_LOSS only if it is still the one on the disk.
  absl::StatusOr<SessionManifest> ReadWhole(const std::string& id) const;
  // The lineage's manifest is the one on the disk; otherwise drops the lineage, or says who changed it.
  absl::StatusOr<bool> StillThere(const std::string& id);
  absl::Status MakeSynced(const std::string& id);
  absl::StatusOr<int64_t> PrepareDirectory(const std::string& id, bool* there);
  SessionManifest ManifestOf(const SessionKv& kv, const SessionManifest& meta) const;
  // Writes what the manifest needs beside pages and rings, and then the manifest. `whole`: only if every file that it
  // names is there.
  absl::Status Commit(const std::string& id, int64_t number, const SavedFile& former_append, bool whole,
                      SessionManifest* manifest, bool* committed);
  absl::StatusOr<SessionManifest> CurrentManifest(const std::string& id);
  void Clean(const std::string& id, const SessionManifest& manifest, int64_t number);
  void RemoveSession(const std::string& id);
  void Undo(const std::string& id, int64_t number, const std::map<std::string, int64_t>& old_lengths);
  void BeginReading(const std::string& id, const std::set<std::string>& names);
  void EndReading(const std::string& id, const std::set<std::string>& names);
  std::set<std::string> ReadingOf(const std::string& id) const;
  void Keep();

  std::string dir_, fingerprint_;
  const FileSystem* files_ = nullptr;
  Engine* engine_ = nullptr;
  bool shared_ = true;
  std::unique_ptr<ServerLease> lease_;
  std::unique_ptr<SessionIndex> index_;
  std::map<std::string, Lineage> lineages_;
  // Whose manifest is in place and may not be after a power cut: until it is, the former one must stay whole too.
  std::set<std::string> unsynced_;
  std::map<std::string, int64_t> held_;                        // numbers, by id
  std::map<std::string, std::multiset<std::string>> reading_;  // files that restores still need, by id

  double look_seconds_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;  // guarded by mutex_
  std::thread keeper_;
  std::unique_ptr<DiskThread> disk_;  // works on all of the above
};

}  // namespace duo
