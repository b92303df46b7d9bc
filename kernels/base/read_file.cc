#include "kernels/base/read_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>

#include "absl/strings/str_cat.h"
#include "kernels/base/host_memory.h"

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
  const auto too_long = [&path](size_t bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(path, ": ", bytes, " bytes of it do not fit the memory"));
  };
  const uintmax_t size = std::filesystem::is_regular_file(path, code) ? std::filesystem::file_size(path, code) : 0;
  if (!code && size > static_cast<uintmax_t>(AvailableHostMemory())) return too_long(size);
  while (in.read(piece, sizeof piece), in.gcount() > 0) {
    try {
      text.append(piece, static_cast<size_t>(in.gcount()));
    } catch (const std::bad_alloc&) {  // a pipe that does not end
      return too_long(text.size());
    }
    if (text.size() > limit) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": expected at most ", limit, " bytes, found more"));
    }
  }
  if (in.bad()) return absl::DataLossError(absl::StrCat(path, ": reading it failed"));
  return text;
}

}  // namespace duo
