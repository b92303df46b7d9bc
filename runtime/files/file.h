// File: a descriptor of a FileSystem that closes itself, read and written at given places; and errno as a Status.
// A File may be used by several threads; the file system must outlive it. Errors: NOT_FOUND or, of a part of something,
// DATA_LOSS (missing, or shorter than it should be); RESOURCE_EXHAUSTED (disk full); PERMISSION_DENIED; INTERNAL, each
// with the file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/files/file_system.h"

namespace duo {

// "FILE: cannot WHAT: REASON", with the code that fits errno's value.
absl::Status FileError(int error, const std::string& file, std::string_view what);

class File {
 public:
  File() = default;
  // flags: open(2)'s; what O_CREAT makes has mode 0640. A file that must exist and does not is DATA_LOSS.
  static absl::StatusOr<File> Open(const FileSystem& files, const std::string& name, int flags);
  File(File&& other) noexcept
      : files_(other.files_), name_(std::move(other.name_)), fd_(std::exchange(other.fd_, -1)) {}
  File& operator=(File&& other) noexcept {
    std::swap(files_, other.files_);
    std::swap(name_, other.name_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~File();

  // All of the bytes, or an error.
  absl::Status Write(const void* data, int64_t bytes, int64_t offset) const;
  absl::Status Read(void* data, int64_t bytes, int64_t offset) const;
  // These bytes will be read soon: the disk may begin now.
  void Expect(int64_t bytes, int64_t offset) const;
  // What was written is on the disk when it returns OK.
  absl::Status Sync() const;
  absl::StatusOr<int64_t> Bytes() const;
  // As FileSystem::lock; UNAVAILABLE when another has it.
  absl::Status Lock(bool alone) const;
  const std::string& name() const { return name_; }

 private:
  const FileSystem* files_ = nullptr;
  std::string name_;
  int fd_ = -1;
};

}  // namespace duo
