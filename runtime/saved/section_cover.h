// Which section each page of a saved session comes from. Later sections of a page count, and where ranks of several
// jobs wrote them they may overlap in any way; this is settled once, so that every page is read exactly once, by
// whichever thread. Pure functions.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "runtime/saved/session_manifest.h"

namespace duo {

// The sections to read, each with the pages of it that count (from, to), in the order in which they stand in the
// files. DATA_LOSS when a page of a retrieval head is missing; `dir` is what it calls the session.
absl::StatusOr<std::vector<KvSection>> CoverPages(const SessionManifest& manifest, const std::string& dir);

}  // namespace duo
