#include "runtime/saved/session_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/str_format.h"
#include "runtime/files/crc32c.h"
#include "runtime/files/file.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::string> ReadAll(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return FileError(errno, file, "open it");
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad()) return FileError(EIO, file, "read it");
  return text.str();
}

// What a manifest names; everything else in its directory is left over.
std::set<std::string> FilesOf(const SessionManifest& m) {
  std::set<std::string> files = {kManifest + 1, m.token_file.name};
  if (!m.rings_file.empty()) files.insert(m.rings_file);
  if (m.append.has_value() && !m.append_file.name.empty()) files.insert(m.append_file.name);
  for (const KvSection& s : m.sections) files.insert(PageFileName(s.generation, s.first / kRangePages));
  return files;
}

}  // namespace

absl::Status SyncDir(const std::string& dir) {
  const int fd = open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return FileError(errno, dir, "open it");
  const int failed = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return failed == 0 || failed == EINVAL ? absl::OkStatus() : FileError(failed, dir, "write it to the disk");
}

absl::Status WriteAll(const std::string& file, std::string_view text) {
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  if (fd < 0) return FileError(errno, file, "open it");
  int failed = 0;
  for (size_t done = 0; done < text.size() && failed == 0;) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) failed = n == 0 ? ENOSPC : errno;
    if (n > 0) done += n;
  }
  if (failed == 0 && fdatasync(fd) != 0) failed = errno;
  if (close(fd) != 0 && failed == 0) failed = errno;
  return failed == 0 ? absl::OkStatus() : FileError(failed, file, absl::StrFormat("write %d bytes", text.size()));
}

absl::StatusOr<SessionManifest> ReadManifest(const std::string& dir) {
  const std::string file = dir + kManifest;
  absl::StatusOr<std::string> text = ReadAll(file);
  if (!text.ok()) return text.status();
  return ParseManifest(*text, file);
}

absl::Status ReplaceManifest(const std::string& dir, const SessionManifest& manifest) {
  const std::string file = dir + kManifest, temporary = file + ".new";
  if (absl::Status s = WriteAll(temporary, FormatManifest(manifest)); !s.ok()) {
    unlink(temporary.c_str());
    return s;
  }
  if (rename(temporary.c_str(), file.c_str()) != 0) return FileError(errno, file, "replace it");
  return SyncDir(dir);
}

absl::StatusOr<SavedFile> WriteTokens(const std::string& dir, const std::string& name,
                                      const std::vector<int32_t>& tokens) {
  const std::string_view bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t));
  if (absl::Status s = WriteAll(dir + "/" + name, bytes); !s.ok()) return s;
  return SavedFile{name, static_cast<int64_t>(bytes.size()), Crc32c(bytes.data(), bytes.size())};
}

absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& dir, const SavedFile& file, int64_t count) {
  const std::string name = dir + "/" + file.name;
  absl::StatusOr<std::string> bytes = ReadAll(name);
  if (!bytes.ok()) return absl::DataLossError(std::string(bytes.status().message()));
  if (static_cast<int64_t>(bytes->size()) != count * 4 || Crc32c(bytes->data(), bytes->size()) != file.crc) {
    return absl::DataLossError(
        absl::StrFormat("%s: damaged: its checksum is wrong (%d bytes, %d expected)", name, bytes->size(), count * 4));
  }
  std::vector<int32_t> tokens(count);
  if (count > 0) std::memcpy(tokens.data(), bytes->data(), bytes->size());
  return tokens;
}

void RemoveLeftovers(const std::string& dir, const SessionManifest& manifest) {
  const std::set<std::string> keep = FilesOf(manifest);
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(dir, ignored)) {
    if (keep.count(entry.path().filename().string()) == 0) fs::remove(entry.path(), ignored);
  }
}

}  // namespace duo
