// The small files of a saved session's directory (session_store.h): whole files, written so that they are on the disk
// when a function returns OK. Free functions; any thread, one writer a directory. Errors as in file.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/saved/session_manifest.h"

namespace duo {

inline constexpr char kManifest[] = "/manifest";  // what makes a directory a session

// New names in a directory are on the disk.
absl::Status SyncDir(const std::string& dir);
// The file holds exactly `text`.
absl::Status WriteAll(const std::string& file, std::string_view text);

absl::StatusOr<SessionManifest> ReadManifest(const std::string& dir);
// A new manifest takes the old one's place in one step.
absl::Status ReplaceManifest(const std::string& dir, const SessionManifest& manifest);

absl::StatusOr<SavedFile> WriteTokens(const std::string& dir, const std::string& name,
                                      const std::vector<int32_t>& tokens);
// DATA_LOSS when they are not the `count` tokens that were written.
absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& dir, const SavedFile& file, int64_t count);

// Deletes what the manifest does not name: the rest of interrupted and older saves.
void RemoveLeftovers(const std::string& dir, const SessionManifest& manifest);

}  // namespace duo
