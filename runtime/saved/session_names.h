// Which names in a save directory are the store's own: it reads, changes and deletes nothing else. Free functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace duo {

inline constexpr char kManifestName[] = "manifest";         // what makes a directory a session
inline constexpr char kNewManifestName[] = "manifest.new";  // written, and not yet in its place
inline constexpr char kMarkerName[] = ".duo-session";       // the directory is the store's: other files may be deleted
inline constexpr char kServerPrefix[] = ".duo-server-";     // in the save directory: a server's sign of life

enum class SavedKind : uint8_t {
  kForeign,
  kManifest,
  kNewManifest,
  kMarker,
  kLock,
  kPages,
  kRings,
  kTokens,
  kAppend,
  kSections
};

struct SavedName {
  SavedKind kind = SavedKind::kForeign;
  int64_t generation = 0;  // of locks and of what follows them above: who wrote it, as a number that only grows
};
// GEN-lock and GEN-KIND-NUMBER, in decimal without signs; whatever else is foreign.
SavedName ParseSavedName(std::string_view name);

std::string SavedFileName(int64_t generation, SavedKind kind, int64_t number);
std::string LockName(int64_t generation);

// 1 to 64 of A-Z a-z 0-9 . _ - and no dot in front: what may be the name of a session's directory.
bool ValidSessionId(std::string_view id);

}  // namespace duo
