// A file's bytes, whole. Errors name the file and say what is wrong with it. Thread-safe.
#pragma once

#include <cstddef>
#include <limits>
#include <string>

#include "absl/status/statusor.h"

namespace duo {

// limit: bytes; a longer file is refused, before more than that is held.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit = std::numeric_limits<size_t>::max());

}  // namespace duo
