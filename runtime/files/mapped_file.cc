#include "runtime/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace duo {
namespace {

absl::StatusOr<void*> MapDescriptor(int fd, const std::string& file, size_t least, const char* what, size_t* size) {
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(absl::StrCat(file, ": expected a regular file"));
  *size = static_cast<size_t>(info.st_size);
  if (*size < least) {
    return absl::DataLossError(absl::StrCat(file, ": truncated, expected ", what, ", found ", info.st_size, " bytes"));
  }
  void* data = mmap(nullptr, *size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data != MAP_FAILED) return data;
  return absl::ResourceExhaustedError(
      absl::StrCat(file, ": cannot be mapped (", info.st_size, " bytes, ", strerror(errno), ")"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Map(const std::string& file, size_t least, const char* what) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::NotFoundError(absl::StrCat(file, ": cannot be opened (", strerror(errno), ")"));
  size_t size = 0;
  const absl::StatusOr<void*> data = MapDescriptor(fd, file, least, what, &size);
  close(fd);
  if (!data.ok()) return data.status();
  return std::unique_ptr<MappedFile>(new MappedFile(*data, size));
}

MappedFile::~MappedFile() { munmap(data_, size_); }

void DropPages(const void* data, size_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)),
             begin = reinterpret_cast<uintptr_t>(data) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(data) + bytes;
  // Whole pages of a mapping that nobody writes to; where the kernel refuses, they stay.
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace duo
