// Files that are read as text: prompts, questions, documents. One thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace duo {

// The file's bytes; "-": standard input's. Errors: those of ReadFile, more than fits the memory, and what is no text.
absl::StatusOr<std::string> ReadTextFile(const std::string& file);

}  // namespace duo
