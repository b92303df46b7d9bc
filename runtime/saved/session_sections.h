// Where the pages and rings of a saved session lie in its files: what must be true of that before anything is read by
// it. The file that holds it is session_manifest.h's FormatSections and ParseSections. Thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/saved/session_manifest.h"

namespace duo {

inline constexpr int64_t kMostBytes = int64_t{1} << 60;  // of a file, by which sums of offsets stay in range

// What sections and rings contradict; empty: nothing.
std::string Contradiction(const SessionManifest& m);

}  // namespace duo
