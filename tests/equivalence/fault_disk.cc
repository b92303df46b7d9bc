#include "tests/equivalence/fault_disk.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/base/splitmix64.h"
#include "tests/support/test_scale.h"

namespace duo {

int Cuts() { return static_cast<int>(Cut::kSome) + Scaled(4); }

FaultDisk::FaultDisk() { state.inodes[1].directory = true; }

std::optional<int> FaultDisk::Parent(const std::string& name, std::string* last) {
  int at = 1;
  for (size_t begin = 1; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    if (end == name.size()) {
      *last = part;
      return at;
    }
    const auto& names = state.inodes[at].names_now;
    const auto found = names.find(part);
    if (found == names.end() || !state.inodes[found->second].directory) return std::nullopt;
    at = found->second;
    begin = end + 1;
  }
  last->clear();
  return at;
}

std::optional<int> FaultDisk::Find(const std::string& name) {
  std::string last;
  const std::optional<int> parent = Parent(name, &last);
  if (!parent.has_value() || last.empty()) return parent;
  const auto& names = state.inodes[*parent].names_now;
  const auto found = names.find(last);
  return found == names.end() ? std::nullopt : std::optional<int>(found->second);
}

void FaultDisk::Begin() {
  std::lock_guard lock(mutex_);
  called_.clear();
  fail_at_ = forget_sync_ = -1;
  syncs_ = 0;
  before_ = nullptr;
}

int FaultDisk::Called(const char* what, const std::string& name) {
  if (before_ != nullptr) before_->push_back(state);
  called_.push_back(std::string(what) + " " + name);
  ++state.time;
  return static_cast<int>(called_.size()) - 1 == fail_at_ ? -fail_error_ : 0;
}

void FaultDisk::Apply(std::string* text, const Change& change) {
  if (change.cut) return text->resize(change.offset);
  text->resize(std::max<size_t>(text->size(), change.offset + change.text.size()));
  std::copy(change.text.begin(), change.text.end(), text->begin() + change.offset);
}

void FaultDisk::Apply(Inode& inode, const NameChange& change, bool disk) {
  auto& names = disk ? inode.names_disk : inode.names_now;
  if (!change.gone.empty()) names.erase(change.gone);
  if (!change.name.empty()) names[change.name] = change.inode;
  if (!disk) inode.unsynced_names.push_back(change);
}

void FaultDisk::Restart(int way) {
  std::lock_guard lock(mutex_);
  opened_.clear();
  Begin();
  const Cut cut = static_cast<Cut>(std::min(way, static_cast<int>(Cut::kSome)));
  if (cut == Cut::kNone) return;
  uint64_t random = SplitMix64(way * 7919 + state.time);
  for (auto& [id, inode] : state.inodes) {
    for (Change change : inode.unsynced) {
      const uint64_t draw = SplitMix64(random++) % 3;
      if (cut == Cut::kSome && draw == 1) change.text.resize(change.text.size() / 2);
      if (cut == Cut::kNamesLost || (cut == Cut::kSome && draw != 0)) Apply(&inode.disk, change);
    }
    for (const NameChange& change : inode.unsynced_names) {
      if (cut == Cut::kBytesLost || (cut == Cut::kSome && SplitMix64(random++) % 2 == 0)) Apply(inode, change, true);
    }
    inode.now = inode.shown = inode.disk;
    inode.names_now = inode.names_disk;
    inode.unsynced.clear();
    inode.unsynced_names.clear();
  }
}

void FaultDisk::KillHost(int host) {
  std::lock_guard lock(mutex_);
  std::erase_if(opened_, [host](const auto& entry) { return entry.second.host == host; });
}

const std::string& FaultDisk::Seen(const Opened& opened) const {
  const Inode& inode = state.inodes.at(opened.inode);
  return network && inode.writer != opened.host ? inode.shown : inode.now;
}

void FaultDisk::Show(const Opened& opened) {
  Inode& inode = state.inodes[opened.inode];
  if (network && inode.writer == opened.host) inode.shown = inode.now;
}

FileSystem FaultDisk::Files(int host) {
  FileSystem files;
  AddBytes(files, host);
  AddLocks(files);
  AddNames(files);
  AddFolders(files);
  files.shared = [this](const std::string&) { return network; };
  return files;
}

void FaultDisk::AddBytes(FileSystem& files, int host) {
  files.open = [this, host](const std::string& name, int flags) {
    std::lock_guard lock(mutex_);
    if (const int failed = Called("open", name); failed != 0) return failed;
    std::string last;
    const std::optional<int> parent = Parent(name, &last);
    if (!parent.has_value()) return -ENOENT;
    std::optional<int> found = Find(name);
    if (found.has_value() && (flags & O_EXCL) != 0) return -EEXIST;
    if (!found.has_value()) {
      if ((flags & O_CREAT) == 0) return -ENOENT;
      found = state.next_inode++;
      state.inodes[*found];
      Apply(state.inodes[*parent], {"", last, *found}, false);
    }
    Inode& inode = state.inodes[*found];
    if ((flags & O_DIRECTORY) != 0 && !inode.directory) return -ENOTDIR;
    if ((flags & O_TRUNC) != 0 && !inode.now.empty()) {
      inode.now.clear();
      inode.unsynced.push_back({0, "", true});
    }
    opened_[next_fd_] = {*found, host, false, false, name};
    return next_fd_++;
  };
  files.close = [this](int fd) {
    std::lock_guard lock(mutex_);
    const auto opened = opened_.find(fd);
    if (opened == opened_.end()) return -EBADF;
    Show(opened->second);
    opened_.erase(opened);
    return 0;
  };
  files.read = [this](int fd, void* data, int64_t bytes, int64_t offset) -> int64_t {
    std::lock_guard lock(mutex_);
    const auto opened = opened_.find(fd);
    if (opened == opened_.end()) return -EBADF;
    const std::string& text = Seen(opened->second);
    const int64_t n = std::clamp<int64_t>(static_cast<int64_t>(text.size()) - offset, 0, bytes);
    if (n > 0) std::memcpy(data, text.data() + offset, n);
    return n;
  };
  files.write = [this](int fd, const void* data, int64_t bytes, int64_t offset) -> int64_t {
    std::lock_guard lock(mutex_);
    const auto opened = opened_.find(fd);
    if (opened == opened_.end()) return -EBADF;
    if (const int failed = Called("write", opened->second.name); failed != 0) return failed;
    Inode& inode = state.inodes[opened->second.inode];
    inode.unsynced.push_back({offset, std::string(static_cast<const char*>(data), bytes), false});
    Apply(&inode.now, inode.unsynced.back());
    inode.changed = state.time;
    inode.writer = opened->second.host;
    return bytes;
  };
  files.expect = [](int, int64_t, int64_t) {};
  files.sync = [this](int fd) {
    std::lock_guard lock(mutex_);
    const auto opened = opened_.find(fd);
    if (opened == opened_.end()) return -EBADF;
    const int failed = Called("sync", opened->second.name);
    const bool forget = syncs_++ == forget_sync_;
    Inode& inode = state.inodes[opened->second.inode];
    if (failed == 0 && !forget) {
      for (const Change& change : inode.unsynced) Apply(&inode.disk, change);
      for (const NameChange& change : inode.unsynced_names) Apply(inode, change, true);
      inode.unsynced_names.clear();
      Show(opened->second);
    }
    // A failed sync takes what it was to write with it: the next one says that all is well.
    if (!forget) inode.unsynced.clear();
    return failed;
  };
}

void FaultDisk::AddLocks(FileSystem& files) {
  files.info_of = [this](int fd, FileInfo* info) {
    std::lock_guard lock(mutex_);
    const auto opened = opened_.find(fd);
    if (opened == opened_.end()) return -EBADF;
    const Inode& inode = state.inodes[opened->second.inode];
    *info = {static_cast<int64_t>(Seen(opened->second).size()), static_cast<uint64_t>(opened->second.inode),
             inode.changed, inode.directory};
    return 0;
  };
  files.lock = [this](int fd, bool alone) {
    std::lock_guard lock(mutex_);
    const auto opened = opened_.find(fd);
    if (opened == opened_.end()) return -EBADF;
    for (const auto& [other, o] : opened_) {
      const bool seen = !network || o.host == opened->second.host;
      if (other != fd && o.inode == opened->second.inode && (o.alone || (alone && o.locked)) && seen)
        return -EWOULDBLOCK;
    }
    opened->second.locked = true;
    opened->second.alone = alone;
    return 0;
  };
}

void FaultDisk::AddNames(FileSystem& files) {
  files.info = [this](const std::string& name, FileInfo* info) {
    std::lock_guard lock(mutex_);
    const std::optional<int> found = Find(name);
    if (!found.has_value()) return -ENOENT;
    const Inode& inode = state.inodes[*found];
    *info = {static_cast<int64_t>(inode.now.size()), static_cast<uint64_t>(*found), inode.changed, inode.directory};
    return 0;
  };
  files.truncate = [this](const std::string& name, int64_t bytes) {
    std::lock_guard lock(mutex_);
    if (const int failed = Called("truncate", name); failed != 0) return failed;
    const std::optional<int> found = Find(name);
    if (!found.has_value()) return -ENOENT;
    Inode& inode = state.inodes[*found];
    inode.unsynced.push_back({bytes, "", true});
    Apply(&inode.now, inode.unsynced.back());
    return 0;
  };
  files.rename = [this](const std::string& from, const std::string& to) {
    std::lock_guard lock(mutex_);
    if (const int failed = Called("rename", to); failed != 0) return failed;
    std::string gone, name;
    const std::optional<int> found = Find(from), parent = Parent(from, &gone);
    if (!found.has_value() || Parent(to, &name) != parent) return -ENOENT;
    Apply(state.inodes[*parent], {gone, name, *found}, false);
    return 0;
  };
  files.link = [this](const std::string& from, const std::string& to) {
    std::lock_guard lock(mutex_);
    if (const int failed = Called("link", to); failed != 0) return failed;
    std::string name;
    const std::optional<int> found = Find(from), parent = Parent(to, &name);
    if (!found.has_value() || !parent.has_value()) return -ENOENT;
    if (Find(to).has_value()) return -EEXIST;
    Apply(state.inodes[*parent], {"", name, *found}, false);
    return 0;
  };
  files.unlink = [this](const std::string& name) {
    std::lock_guard lock(mutex_);
    if (const int failed = Called("unlink", name); failed != 0) return failed;
    const std::optional<int> found = Find(name);
    if (!found.has_value()) return -ENOENT;
    if (state.inodes[*found].directory) return -EISDIR;
    std::string last;
    const int parent = *Parent(name, &last);
    Apply(state.inodes[parent], {last, "", 0}, false);
    return 0;
  };
}

void FaultDisk::AddFolders(FileSystem& files) {
  files.make_directory = [this](const std::string& name) {
    std::lock_guard lock(mutex_);
    if (Find(name).has_value()) return -EEXIST;
    if (const int failed = Called("make directory", name); failed != 0) return failed;
    std::string last;
    const std::optional<int> parent = Parent(name, &last);
    if (!parent.has_value()) return -ENOENT;
    state.inodes[state.next_inode].directory = true;
    Apply(state.inodes[*parent], {"", last, state.next_inode++}, false);
    return 0;
  };
  files.remove_directory = [this](const std::string& name) {
    std::lock_guard lock(mutex_);
    if (const int failed = Called("remove directory", name); failed != 0) return failed;
    const std::optional<int> found = Find(name);
    if (!found.has_value()) return -ENOENT;
    if (!state.inodes[*found].names_now.empty()) return -ENOTEMPTY;
    std::string last;
    const int parent = *Parent(name, &last);
    Apply(state.inodes[parent], {last, "", 0}, false);
    return 0;
  };
  files.list = [this](const std::string& name, std::vector<std::string>* names) {
    std::lock_guard lock(mutex_);
    *names = Names(name);
    const std::optional<int> found = Find(name);
    return !found.has_value() ? -ENOENT : state.inodes[*found].directory ? 0 : -ENOTDIR;
  };
}

FaultDisk::State FaultDisk::Now() {
  std::lock_guard lock(mutex_);
  return state;
}

std::string FaultDisk::Text(const std::string& name) {
  std::lock_guard lock(mutex_);
  const std::optional<int> found = Find(name);
  return found.has_value() ? state.inodes[*found].now : "";
}

void FaultDisk::Put(const std::string& name, const std::string& text) {
  std::lock_guard lock(mutex_);
  std::string last;
  for (size_t slash = name.find('/', 1); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    const std::string dir = name.substr(0, slash);
    if (Find(dir).has_value()) continue;
    const int parent = *Parent(dir, &last);
    state.inodes[state.next_inode].directory = true;
    state.inodes[parent].names_now[last] = state.inodes[parent].names_disk[last] = state.next_inode++;
  }
  const int parent = *Parent(name, &last);
  const std::optional<int> found = Find(name);
  const int inode = found.has_value() ? *found : state.next_inode++;
  state.inodes[inode].now = state.inodes[inode].disk = text;
  state.inodes[inode].changed = ++state.time;
  state.inodes[parent].names_now[last] = state.inodes[parent].names_disk[last] = inode;
}

bool FaultDisk::Exists(const std::string& name) {
  std::lock_guard lock(mutex_);
  return Find(name).has_value();
}

std::vector<std::string> FaultDisk::Names(const std::string& dir) {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  if (const std::optional<int> found = Find(dir); found.has_value()) {
    for (const auto& [name, inode] : state.inodes[*found].names_now) names.push_back(name);
  }
  return names;
}

void FaultDisk::Remove(const std::string& name) {
  std::lock_guard lock(mutex_);
  std::string last;
  const int parent = *Parent(name, &last);
  state.inodes[parent].names_now.erase(last);
  state.inodes[parent].names_disk.erase(last);
}

}  // namespace duo
