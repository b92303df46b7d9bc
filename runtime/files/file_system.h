// FileSystem: the calls by which saved sessions reach a disk, as a table of functions, so that tests can put another
// disk under the store: one that fails at any call, forgets what was not synced, or belongs to another host.
//
// Every function gives 0 or a value, or -errno; none of them retries or checks more than the kernel does. They may be
// called by several threads. A table outlives what was opened through it. Names are paths; descriptors are the table's
// own numbers, >= 0.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace duo {

struct FileInfo {
  int64_t bytes = 0;
  uint64_t inode = 0;
  int64_t changed_ns = 0;  // when its bytes were last changed, by the file system's clock
  bool directory = false;
};

struct FileSystem {
  std::function<int(const std::string& name, int flags)> open;  // flags: open(2)'s; what O_CREAT makes has mode 0640
  std::function<int(int fd)> close;
  std::function<int64_t(int fd, void* data, int64_t bytes, int64_t offset)> read;         // bytes read; 0 at the end
  std::function<int64_t(int fd, const void* data, int64_t bytes, int64_t offset)> write;  // bytes written
  std::function<void(int fd, int64_t bytes, int64_t offset)> expect;  // they will be read soon: a hint
  std::function<int(int fd)> sync;  // a file's bytes, or a directory's names, are on the disk
  std::function<int(int fd, FileInfo* info)> info_of;
  // Alone, or beside others that want no more, while the descriptor is open; -EWOULDBLOCK: another has it.
  std::function<int(int fd, bool alone)> lock;

  std::function<int(const std::string& name, FileInfo* info)> info;
  std::function<int(const std::string& name, int64_t bytes)> truncate;
  std::function<int(const std::string&from, const std::string&to)> rename, link;  // link: to must not exist
  std::function<int(const std::string&name)> unlink, make_directory, remove_directory;
  std::function<int(const std::string& name, std::vector<std::string>* names)> list;  // without . and ..; any order
  std::function<bool(const std::string& name)> shared;  // on a network file system: other hosts may write there
};

// The machine's own.
const FileSystem& RealFiles();

}  // namespace duo
