#include "launcher/terminal/prompt_file.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"
#include "runtime/text/file_kind.h"

namespace duo {

absl::StatusOr<std::string> ReadTextFile(const std::string& file) {
  absl::StatusOr<std::string> text = ReadFile(file == "-" ? "/dev/stdin" : file);
  const std::string name = file == "-" ? "standard input" : file;
  if (!text.ok()) return text.status();
  const std::string kind = KindOfNoText(*text);
  if (!kind.empty()) return absl::InvalidArgumentError(absl::StrCat(name, ": expected a text, found ", kind));
  return text;
}

}  // namespace duo
