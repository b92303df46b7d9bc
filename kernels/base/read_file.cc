#include "kernels/base/read_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace duo {

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit) {
  std::error_code code;
  if (std::filesystem::is_directory(path, code)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a file, found a folder"));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened (", std::strerror(errno), ")"));
  std::string text;
  char piece[65536];
  while (in.read(piece, sizeof piece), in.gcount() > 0) {
    text.append(piece, static_cast<size_t>(in.gcount()));
    if (text.size() > limit) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": expected at most ", limit, " bytes, found more"));
    }
  }
  if (in.bad()) return absl::DataLossError(absl::StrCat(path, ": reading it failed"));
  return text;
}

}  // namespace duo
