#include "runtime/files/file.h"

#include <fcntl.h>
#include <unistd.h>

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

absl::StatusOr<File> File::Open(const std::string& name, int flags) {
  File file;
  file.name_ = name;
  file.fd_ = open(name.c_str(), flags | O_CLOEXEC, 0640);
  if (file.fd_ < 0) {
    const bool missing = errno == ENOENT && (flags & O_CREAT) == 0;
    if (missing) return absl::DataLossError(absl::StrCat(name, ": this part of the saved session is missing"));
    return FileError(errno, name, "open it");
  }
  return file;
}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

absl::Status File::Write(const void* data, int64_t bytes, int64_t offset) const {
  for (int64_t done = 0; done < bytes;) {
    const ssize_t n = pwrite(fd_, static_cast<const char*>(data) + done, bytes - done, offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return FileError(n == 0 ? ENOSPC : errno, name_, absl::StrFormat("write %d bytes", bytes));
    done += n;
  }
  return absl::OkStatus();
}

absl::Status File::Read(void* data, int64_t bytes, int64_t offset) const {
  for (int64_t done = 0; done < bytes;) {
    const ssize_t n = pread(fd_, static_cast<char*>(data) + done, bytes - done, offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, name_, "read it");
    if (n == 0) {
      return absl::DataLossError(
          absl::StrFormat("%s: ends at byte %d, %d more were expected", name_, offset + done, bytes - done));
    }
    done += n;
  }
  return absl::OkStatus();
}

void File::Expect(int64_t bytes, int64_t offset) const { posix_fadvise(fd_, offset, bytes, POSIX_FADV_WILLNEED); }

absl::Status File::Sync() const {
  return fdatasync(fd_) == 0 ? absl::OkStatus() : FileError(errno, name_, "write it to the disk");
}

}  // namespace duo
