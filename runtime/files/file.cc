#include "runtime/files/file.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace duo {

absl::Status FileError(int error, const std::string& file, std::string_view what) {
  const std::string sentence = file + ": cannot " + std::string(what) + ": " + std::strerror(error);
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(sentence);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(sentence);
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(sentence);
    default:
      return absl::InternalError(sentence);
  }
}

absl::StatusOr<File> File::Open(const FileSystem& files, const std::string& name, int flags) {
  const int fd = files.open(name, flags);
  if (fd == -ENOENT && (flags & O_CREAT) == 0) {
    return absl::DataLossError(absl::StrCat(name, ": this part of the saved session is missing"));
  }
  if (fd < 0) return FileError(-fd, name, "open it");
  File file;
  file.files_ = &files;
  file.name_ = name;
  file.fd_ = fd;
  return file;
}

File::~File() {
  if (fd_ >= 0) files_->close(fd_);
}

absl::Status File::Write(const void* data, int64_t bytes, int64_t offset) const {
  for (int64_t done = 0; done < bytes;) {
    const int64_t n = files_->write(fd_, static_cast<const char*>(data) + done, bytes - done, offset + done);
    if (n == -EINTR) continue;
    if (n <= 0) {
      return FileError(n == 0 ? ENOSPC : static_cast<int>(-n), name_, absl::StrFormat("write %d bytes", bytes));
    }
    done += n;
  }
  return absl::OkStatus();
}

absl::Status File::Read(void* data, int64_t bytes, int64_t offset) const {
  for (int64_t done = 0; done < bytes;) {
    const int64_t n = files_->read(fd_, static_cast<char*>(data) + done, bytes - done, offset + done);
    if (n == -EINTR) continue;
    if (n < 0) return FileError(static_cast<int>(-n), name_, "read it");
    if (n == 0) {
      return absl::DataLossError(
          absl::StrFormat("%s: ends at byte %d, %d more were expected", name_, offset + done, bytes - done));
    }
    done += n;
  }
  return absl::OkStatus();
}

void File::Expect(int64_t bytes, int64_t offset) const { files_->expect(fd_, bytes, offset); }

absl::Status File::Sync() const {
  const int failed = files_->sync(fd_);
  return failed == 0 ? absl::OkStatus() : FileError(-failed, name_, "write it to the disk");
}

absl::Status File::Lock(bool alone) const {
  const int failed = files_->lock(fd_, alone);
  if (failed == 0) return absl::OkStatus();
  if (failed == -EWOULDBLOCK) return absl::UnavailableError(name_ + ": locked by another process");
  return FileError(-failed, name_, "lock it");
}

absl::StatusOr<int64_t> File::Bytes() const {
  FileInfo info;
  if (const int failed = files_->info_of(fd_, &info); failed != 0) return FileError(-failed, name_, "look at it");
  return info.bytes;
}

}  // namespace duo
