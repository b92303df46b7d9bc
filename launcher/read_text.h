// A text file that the user named, whole, as bytes. Errors name the file. Thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace duo {

absl::StatusOr<std::string> ReadText(const std::string& path);

}  // namespace duo
