#include "runtime/files/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <memory>
#include <string_view>

namespace duo {
namespace {

int Result(int done) { return done < 0 ? -errno : done; }

int Fill(int done, const struct stat& s, FileInfo* info) {
  if (done != 0) return -errno;
  *info = {s.st_size, s.st_ino, int64_t{s.st_mtim.tv_sec} * 1'000'000'000 + s.st_mtim.tv_nsec, S_ISDIR(s.st_mode)};
  return 0;
}

int List(const std::string& name, std::vector<std::string>* names) {
  names->clear();
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(name.c_str()), closedir);
  if (dir == nullptr) return -errno;
  while (true) {
    errno = 0;
    const dirent* entry = readdir(dir.get());
    if (entry == nullptr) return -errno;
    const std::string_view found = entry->d_name;
    if (found != "." && found != "..") names->emplace_back(found);
  }
}

// What statfs(2) says of file systems that other hosts may have mounted too.
bool Shared(const std::string& name) {
  constexpr uint32_t kNfs = 0x6969, kSmb = 0x517b, kCifs = 0xff534d42, kSmb2 = 0xfe534d42, kCeph = 0x00c36400,
                     kLustre = 0x0bd00bd0, kGpfs = 0x47504653, kFuse = 0x65735546, k9p = 0x01021997, kAfs = 0x5346414f,
                     kBeeGfs = 0x19830326, kOcfs2 = 0x7461636f, kGfs2 = 0x01161970;
  constexpr uint32_t kKnown[] = {kNfs,  kSmb, kCifs, kSmb2,   kCeph,  kLustre, kGpfs,
                                 kFuse, k9p,  kAfs,  kBeeGfs, kOcfs2, kGfs2};
  struct statfs s = {};
  if (statfs(name.c_str(), &s) != 0) return false;
  return std::find(std::begin(kKnown), std::end(kKnown), static_cast<uint32_t>(s.f_type)) != std::end(kKnown);
}

FileSystem MakeReal() {
  FileSystem files;
  files.open = [](const std::string& name, int flags) { return Result(open(name.c_str(), flags | O_CLOEXEC, 0640)); };
  files.close = [](int fd) { return Result(close(fd)); };
  files.read = [](int fd, void* data, int64_t bytes, int64_t offset) -> int64_t {
    const ssize_t n = pread(fd, data, bytes, offset);
    return n < 0 ? -errno : n;
  };
  files.write = [](int fd, const void* data, int64_t bytes, int64_t offset) -> int64_t {
    const ssize_t n = pwrite(fd, data, bytes, offset);
    return n < 0 ? -errno : n;
  };
  files.expect = [](int fd, int64_t bytes, int64_t offset) { posix_fadvise(fd, offset, bytes, POSIX_FADV_WILLNEED); };
  files.sync = [](int fd) { return Result(fsync(fd)); };
  files.info_of = [](int fd, FileInfo* info) {
    struct stat s = {};
    return Fill(fstat(fd, &s), s, info);
  };
  files.lock = [](int fd, bool alone) { return Result(flock(fd, (alone ? LOCK_EX : LOCK_SH) | LOCK_NB)); };
  files.info = [](const std::string& name, FileInfo* info) {
    struct stat s = {};
    return Fill(stat(name.c_str(), &s), s, info);
  };
  files.truncate = [](const std::string& name, int64_t bytes) { return Result(truncate(name.c_str(), bytes)); };
  files.rename = [](const std::string& from, const std::string& to) {
    return Result(rename(from.c_str(), to.c_str()));
  };
  files.link = [](const std::string& from, const std::string& to) { return Result(link(from.c_str(), to.c_str())); };
  files.unlink = [](const std::string& name) { return Result(unlink(name.c_str())); };
  files.make_directory = [](const std::string& name) { return Result(mkdir(name.c_str(), 0750)); };
  files.remove_directory = [](const std::string& name) { return Result(rmdir(name.c_str())); };
  files.list = List;
  files.shared = Shared;
  return files;
}

}  // namespace

const FileSystem& RealFiles() {
  static const FileSystem files = MakeReal();
  return files;
}

}  // namespace duo
