#include "runtime/saved/session_files.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/files/crc32c.h"
#include "runtime/saved/session_names.h"

namespace duo {
namespace {

constexpr int64_t kMostFileBytes = int64_t{1} << 34;  // of a file that is read whole

std::string_view Bytes(const std::vector<int32_t>& tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t)};
}

}  // namespace

absl::Status SyncDir(const FileSystem& files, const std::string& dir) {
  const int fd = files.open(dir, O_RDONLY | O_DIRECTORY);
  if (fd < 0) return FileError(-fd, dir, "open it");
  const int failed = files.sync(fd);
  files.close(fd);
  return failed == 0 || failed == -EINVAL ? absl::OkStatus() : FileError(-failed, dir, "write it to the disk");
}

absl::Status MakeDirectories(const FileSystem& files, const std::string& dir) {
  for (size_t at = 0; at != std::string::npos;) {
    const size_t parent = at;
    at = dir.find('/', at + 1);
    const std::string part = dir.substr(0, at);
    const int failed = files.make_directory(part);
    if (failed == -EEXIST) continue;
    if (failed != 0) {
      FileInfo info;  // what is there need not let us make anything above it
      if (files.info(part, &info) == 0 && info.directory) continue;
      return FileError(-failed, part, "make this directory");
    }
    const std::string above = parent == 0 ? (dir[0] == '/' ? "/" : ".") : dir.substr(0, parent);
    if (absl::Status s = SyncDir(files, above); !s.ok() && !absl::IsPermissionDenied(s)) return s;
  }
  return absl::OkStatus();
}

absl::Status CheckOwned(const FileSystem& files, const std::string& dir) {
  std::vector<std::string> names;
  if (const int failed = files.list(dir, &names); failed != 0) return FileError(-failed, dir, "list it");
  const bool marked = std::find(names.begin(), names.end(), kMarkerName) != names.end();
  std::erase_if(names, [](const std::string& name) { return ParseSavedName(name).kind == SavedKind::kLock; });
  if (marked || names.empty()) return absl::OkStatus();
  // Before there were markers a manifest was all there was.
  const absl::StatusOr<std::string> text = ReadAll(files, absl::StrCat(dir, "/", kManifestName));
  if (text.ok() && LooksLikeManifest(*text)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(dir, " is no saved session's directory (it holds ", names.front(),
                   "): nothing is changed there; use another session id or another --save-dir"));
}

absl::Status OwnDirectory(const FileSystem& files, const std::string& dir) {
  if (absl::Status s = CheckOwned(files, dir); !s.ok()) return s;
  return File::Open(files, absl::StrCat(dir, "/", kMarkerName), O_WRONLY | O_CREAT).status();
}

absl::Status WriteAll(const FileSystem& files, const std::string& name, std::string_view text) {
  absl::StatusOr<File> file = File::Open(files, name, O_WRONLY | O_CREAT | O_TRUNC);
  if (!file.ok()) return file.status();
  if (absl::Status s = file->Write(text.data(), text.size(), 0); !s.ok()) return s;
  return file->Sync();
}

absl::StatusOr<std::string> ReadAll(const FileSystem& files, const std::string& name) {
  absl::StatusOr<File> file = File::Open(files, name, O_RDONLY);
  if (!file.ok()) return file.status();
  const absl::StatusOr<int64_t> bytes = file->Bytes();
  if (!bytes.ok()) return bytes.status();
  if (*bytes > kMostFileBytes) {
    return absl::DataLossError(absl::StrFormat("%s: damaged: it has %d bytes", name, *bytes));
  }
  std::string text(*bytes, 0);
  if (absl::Status s = file->Read(text.data(), *bytes, 0); !s.ok()) return s;
  return text;
}

absl::StatusOr<FileState> StateOf(const FileSystem& files, const std::string& name) {
  FileInfo info;
  if (const int failed = files.info(name, &info); failed != 0) return FileError(-failed, name, "look at it");
  return FileState{info.inode, info.changed_ns, info.bytes};
}

absl::StatusOr<SessionManifest> ReadManifest(const FileSystem& files, const std::string& dir) {
  const std::string name = absl::StrCat(dir, "/", kManifestName);
  if (absl::StatusOr<FileState> state = StateOf(files, name); !state.ok()) return state.status();
  absl::StatusOr<std::string> text = ReadAll(files, name);
  if (!text.ok()) return text.status();
  return ParseManifest(*text, name);
}

absl::Status ReadSections(const FileSystem& files, const std::string& dir, SessionManifest* m) {
  if (m->version < 3) return absl::OkStatus();
  const std::string name = absl::StrCat(dir, "/", m->sections_file.name);
  absl::StatusOr<std::string> bytes = ReadAll(files, name);
  if (!bytes.ok()) return bytes.status();
  if (static_cast<int64_t>(bytes->size()) != m->sections_file.bytes ||
      Crc32c(bytes->data(), bytes->size()) != m->sections_file.crc) {
    return absl::DataLossError(name + ": damaged: its checksum is wrong");
  }
  return ParseSections(*bytes, name, m);
}

absl::Status ReplaceManifest(const FileSystem& files, const std::string& dir, const SessionManifest& manifest,
                             const std::function<absl::Status()>& check, bool* committed) {
  *committed = false;
  const std::string name = absl::StrCat(dir, "/", kManifestName), fresh = absl::StrCat(dir, "/", kNewManifestName);
  const std::string text = FormatManifest(manifest);
  absl::Status written = WriteAll(files, fresh, text);
  if (written.ok()) written = check();
  if (!written.ok()) {
    files.unlink(fresh);
    return written;
  }
  if (const int failed = files.rename(fresh, name); failed != 0) {
    // Over a network it may have been done all the same.
    const absl::StatusOr<std::string> there = ReadAll(files, name);
    *committed = there.ok() && *there == text;
    return FileError(-failed, name, "replace it");
  }
  *committed = true;
  return SyncDir(files, dir);
}

absl::StatusOr<SavedFile> WriteTokens(const FileSystem& files, const std::string& dir, const SavedFile& former,
                                      const std::string& new_name, const std::vector<int32_t>& tokens) {
  const std::string_view bytes = Bytes(tokens);
  const auto begin = std::min<int64_t>(former.bytes, static_cast<int64_t>(bytes.size()));
  const uint32_t crc = Crc32c(bytes.data(), begin);
  const bool same = !former.name.empty() && begin == former.bytes && crc == former.crc;
  if (!same) {
    if (absl::Status s = WriteAll(files, dir + "/" + new_name, bytes); !s.ok()) return s;
    return SavedFile{new_name, static_cast<int64_t>(bytes.size()), Crc32c(bytes.data(), bytes.size())};
  }
  const std::string_view rest = bytes.substr(begin);
  if (!rest.empty()) {
    absl::StatusOr<File> file = File::Open(files, dir + "/" + former.name, O_WRONLY);
    if (!file.ok()) return file.status();
    if (absl::Status s = file->Write(rest.data(), rest.size(), begin); !s.ok()) return s;
    if (absl::Status s = file->Sync(); !s.ok()) return s;
  }
  return SavedFile{former.name, static_cast<int64_t>(bytes.size()), Crc32c(rest.data(), rest.size(), crc)};
}

absl::StatusOr<std::vector<int32_t>> ReadTokens(const FileSystem& files, const std::string& dir,
                                                const SavedFile& saved) {
  const std::string name = dir + "/" + saved.name;
  absl::StatusOr<File> file = File::Open(files, name, O_RDONLY);
  if (!file.ok()) return file.status();
  const absl::StatusOr<int64_t> bytes = file->Bytes();
  if (!bytes.ok()) return bytes.status();
  if (*bytes < saved.bytes || saved.bytes % 4 != 0) {
    return absl::DataLossError(
        absl::StrFormat("%s: damaged: it has %d bytes, %d were expected", name, *bytes, saved.bytes));
  }
  std::vector<int32_t> tokens(saved.bytes / 4);
  if (absl::Status s = file->Read(tokens.data(), saved.bytes, 0); !s.ok()) return s;
  if (Crc32c(tokens.data(), saved.bytes) != saved.crc) {
    return absl::DataLossError(name + ": damaged: its checksum is wrong");
  }
  return tokens;
}

std::optional<KvFormat> FormatOf(const SessionManifest& m) {
  for (KvFormat f : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4}) {
    if (m.kv_format == Name(f)) return f;
  }
  return std::nullopt;
}
int64_t PageBytesOf(const SessionManifest& m) {
  const std::optional<KvFormat> format = FormatOf(m);
  return format.has_value() ? PageLayout{*format, m.head_dim}.page_bytes() : 0;
}
int64_t RingBytesOf(const SessionManifest& m) {
  const std::optional<KvFormat> format = FormatOf(m);
  return format.has_value() ? int64_t{m.sink + m.recent + 1} * KvTokenBytes(RingFormat(*format), m.head_dim) : 0;
}

std::map<std::string, int64_t> FilesOf(const SessionManifest& m) {
  std::map<std::string, int64_t> lengths;
  for (const SavedFile* file : {&m.sections_file, &m.token_file, &m.append_file}) {
    if (!file->name.empty()) lengths[file->name] = file->bytes;
  }
  const int64_t page_bytes = PageBytesOf(m), ring_bytes = RingBytesOf(m);
  if (!m.rings_file.empty()) lengths[m.rings_file] = 0;
  for (const KvRingSection& r : m.rings) {
    int64_t& length = lengths[m.rings_file];
    length = std::max(length, r.offset + ring_bytes);
  }
  for (const KvSection& s : m.sections) {
    int64_t& length = lengths[PageFileName(s.generation, s.first / kRangePages)];
    length = std::max(length, s.offset + SectionBytes(s, page_bytes));
  }
  return lengths;
}

absl::Status CheckFiles(const FileSystem& files, const std::string& dir, const SessionManifest& manifest) {
  for (const auto& [name, length] : FilesOf(manifest)) {
    FileInfo info;
    const std::string path = absl::StrCat(dir, "/", name);
    const int failed = files.info(path, &info);
    if (failed == -ENOENT || failed == -ENOTDIR) {
      return absl::DataLossError(absl::StrCat(path, ": this part of the saved session is missing"));
    }
    if (failed != 0) return FileError(-failed, path, "look at it");
    if (info.bytes < length) {
      return absl::DataLossError(
          absl::StrFormat("%s: damaged: it has %d bytes, at least %d were expected", path, info.bytes, length));
    }
  }
  return absl::OkStatus();
}

void RemoveFiles(const FileSystem& files, const std::string& dir, const std::set<std::string>& keep, int64_t newest) {
  std::vector<std::string> names;
  files.list(dir, &names);
  for (const std::string& name : names) {
    const SavedName parsed = ParseSavedName(name);
    const bool spared = parsed.kind == SavedKind::kForeign || parsed.kind == SavedKind::kMarker ||
                        parsed.kind == SavedKind::kLock || parsed.generation > newest;
    if (!spared && keep.count(name) == 0) files.unlink(absl::StrCat(dir, "/", name));
  }
}

}  // namespace duo
