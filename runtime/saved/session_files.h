// The files of a saved session's directory (session_store.h): written so that they are on the disk when a function
// returns OK, and deleted only where they are the store's own. Free functions; any thread, one writer a directory.
// Errors as in file.h.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/files/file.h"
#include "runtime/saved/session_manifest.h"

namespace duo {

// New names in a directory are on the disk.
absl::Status SyncDir(const FileSystem& files, const std::string& dir);
// Makes a directory and those above it, each on the disk.
absl::Status MakeDirectories(const FileSystem& files, const std::string& dir);

// The directory is the store's to write in: it has the marker or a manifest, or nothing but locks. FAILED_PRECONDITION
// when it holds something else. NOT_FOUND when it is missing.
absl::Status CheckOwned(const FileSystem& files, const std::string& dir);
// The same; what was empty gets the marker.
absl::Status OwnDirectory(const FileSystem& files, const std::string& dir);

// The file's `bytes` first bytes are `text`.
absl::Status WriteAll(const FileSystem& files, const std::string& name, std::string_view text);
absl::StatusOr<std::string> ReadAll(const FileSystem& files, const std::string& name);

// Which state of a file this is: another one has another inode, time or length.
struct FileState {
  uint64_t inode = 0;
  int64_t changed_ns = -1, bytes = 0;
  bool operator==(const FileState&) const = default;
};
absl::StatusOr<FileState> StateOf(const FileSystem& files, const std::string& name);

// Without sections and rings, but for those that stand in it. NOT_FOUND when there is none.
absl::StatusOr<SessionManifest> ReadManifest(const FileSystem& files, const std::string& dir);
// Those in a file of their own too.
absl::Status ReadSections(const FileSystem& files, const std::string& dir, SessionManifest* manifest);

// The new manifest takes the old one's place in one step. `committed` says whether it has, also when an error follows:
// then either may be there after a power cut, and both must stay whole. `check` is asked last of all whether to.
absl::Status ReplaceManifest(const FileSystem& files, const std::string& dir, const SessionManifest& manifest,
                             const std::function<absl::Status()>& check, bool* committed);

// A file of these tokens: `former`, when it begins with the same ones, with the rest added behind, else `new_name`.
absl::StatusOr<SavedFile> WriteTokens(const FileSystem& files, const std::string& dir, const SavedFile& former,
                                      const std::string& new_name, const std::vector<int32_t>& tokens);
// DATA_LOSS when they are not what was written. Looks at the file's length before it takes memory.
absl::StatusOr<std::vector<int32_t>> ReadTokens(const FileSystem& files, const std::string& dir, const SavedFile& file);

// Bytes of a page and of a ring of one head in its files; 0 when its KV format is unknown.
int64_t PageBytesOf(const SessionManifest& manifest);
int64_t RingBytesOf(const SessionManifest& manifest);
std::optional<KvFormat> FormatOf(const SessionManifest& manifest);

// What a manifest with sections names, and how long each of its files must be at least.
std::map<std::string, int64_t> FilesOf(const SessionManifest& manifest);
// DATA_LOSS, with the file, when one is missing or shorter.
absl::Status CheckFiles(const FileSystem& files, const std::string& dir, const SessionManifest& manifest);

// Deletes the store's own files of generations up to `newest` that are not in `keep`; never the marker, locks or
// anything else.
void RemoveFiles(const FileSystem& files, const std::string& dir, const std::set<std::string>& keep, int64_t newest);

}  // namespace duo
