#include "launcher/read_text.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace duo {

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code code;
  if (std::filesystem::is_directory(path, code)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a file, found a folder"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be read: ", std::strerror(errno)));
  std::ostringstream content;
  content << file.rdbuf();  // unlike reading through iterators, a failing read sets a bit instead of throwing
  if (file.bad()) return absl::DataLossError(absl::StrCat(path, ": reading it failed"));
  std::string text = content.str();
  return text;
}

}  // namespace duo
