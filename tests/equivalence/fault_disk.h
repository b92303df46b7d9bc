// FaultDisk: a disk in memory that knows what has reached it. A file's bytes count after its sync, a directory's names
// after the directory's; a power cut keeps what was synced and any part of the rest. Any call can be made to fail, and
// any sync to say that it was done when it was not. Several hosts may use one disk, each through its own FileSystem.
//
// A plain value but for the tables that it gave out, which stay bound to this object: a copied State put back is the
// disk as it was. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/files/file_system.h"

namespace duo {

enum class Cut : int {
  kNone,       // the process was killed, the machine lives
  kAllLost,    // nothing that was not synced is there
  kNamesLost,  // bytes are there, names are not
  kBytesLost,  // names are there, bytes are not
  kSome,       // some of either, and half of a write, by a seed
};
int Cuts();  // how many: the ways above, the last with several seeds

class FaultDisk {
 public:
  FaultDisk();
  // The disk as this host sees it. Locks bind within a host; on a `network` disk not beyond it.
  FileSystem Files(int host = 0);

  struct Change {  // of a file: `text` at `offset`, or cut to `offset`
    int64_t offset = 0;
    std::string text;
    bool cut = false;
  };
  struct NameChange {  // of a directory, at once: `gone` is removed, `name` is this inode
    std::string gone, name;
    int inode = 0;
  };
  struct Inode {
    bool directory = false;
    std::string now, disk;
    std::vector<Change> unsynced;
    std::map<std::string, int> names_now, names_disk;
    std::vector<NameChange> unsynced_names;
    int64_t changed = 0;
    // On a network disk: who wrote last, and what the other hosts see of it, which is what was synced or closed.
    int writer = 0;
    std::string shown;
  };
  struct State {
    std::map<int, Inode> inodes;
    int next_inode = 2;
    int64_t time = 0;
  };
  State state;
  bool network = false;

  // Faults, by the number of the call since Begin: calls that only look are not counted.
  void Begin();
  void FailAt(int call, int error) {
    std::lock_guard lock(mutex_);
    fail_at_ = call, fail_error_ = error;
  }
  void ForgetSync(int sync) { forget_sync_ = sync; }
  void Record(std::vector<State>* before) { before_ = before; }  // the disk before every counted call
  int calls() const { return static_cast<int>(called_.size()); }
  int syncs() const { return syncs_; }
  const std::vector<std::string>& called() const { return called_; }

  // The process of every host is gone, and the machine with it unless kNone.
  void Restart(int way);  // 0 .. Cuts() - 1
  void KillHost(int host);

  State Now();  // a copy, whoever is writing meanwhile

  // For tests: a file as it is now; empty when there is none.
  std::string Text(const std::string& name);
  void Put(const std::string& name, const std::string& text);  // at once on the disk
  bool Exists(const std::string& name);
  std::vector<std::string> Names(const std::string& dir);
  void Remove(const std::string& name);  // a whole tree

 private:
  struct Opened {
    int inode = 0, host = 0;
    bool locked = false, alone = false;
    std::string name;
  };
  // The calls of Files, by what they are about.
  void AddBytes(FileSystem& files, int host);
  void AddLocks(FileSystem& files);
  void AddNames(FileSystem& files);
  void AddFolders(FileSystem& files);
  std::optional<int> Find(const std::string& name);
  std::optional<int> Parent(const std::string& name, std::string* last);
  int Called(const char* what, const std::string& name);  // 0, or the error to give
  const std::string& Seen(const Opened& opened) const;    // of a file, by the host that has opened it
  void Show(const Opened& opened);
  void Apply(Inode& inode, const NameChange& change, bool disk);
  static void Apply(std::string* text, const Change& change);

  std::recursive_mutex mutex_;
  std::map<int, Opened> opened_;
  int next_fd_ = 3;
  int fail_at_ = -1, fail_error_ = 0, forget_sync_ = -1, syncs_ = 0;
  std::vector<State>* before_ = nullptr;
  std::vector<std::string> called_;
};

}  // namespace duo
