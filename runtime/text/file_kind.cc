#include "runtime/text/file_kind.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

struct Signature {
  size_t at;
  std::string_view bytes;
  const char* kind;
};

using namespace std::string_view_literals;

constexpr Signature kSignatures[] = {
    {0, "%PDF-"sv, "a PDF document"},
    {0, "{\\rtf"sv, "an RTF document"},
    {0, "%!PS-"sv, "a PostScript document"},
    {0, "PK\x03\x04"sv, "a ZIP archive (perhaps a document of an office program)"},
    {0, "\xD0\xCF\x11\xE0"sv, "an old document of an office program"},
    {0, "\x1F\x8B"sv, "a gzip archive"},
    {0, "BZh"sv, "a bzip2 archive"},
    {0,
     "\xFD"
     "7zXZ"sv,
     "an xz archive"},
    {0, "\x28\xB5\x2F\xFD"sv, "a zstd archive"},
    {0, "7z\xBC\xAF"sv, "a 7z archive"},
    {0, "Rar!"sv, "a RAR archive"},
    {257, "ustar"sv, "a tar archive"},
    {0, "\x89PNG"sv, "a PNG image"},
    {0, "\xFF\xD8\xFF"sv, "a JPEG image"},
    {0, "GIF8"sv, "a GIF image"},
    {8, "WEBP"sv, "a WebP image"},
    {8, "WAVE"sv, "a sound file"},
    {4, "ftyp"sv, "a film"},
    {0, "OggS"sv, "a sound file"},
    {0,
     "\x7F"
     "ELF"sv,
     "a program"},
    {0, "SQLite format 3"sv, "a database"},
    {0, "GGUF"sv, "a model in GGUF"},
    {0, "\xFF\xFE"sv, "text in UTF-16, expected UTF-8"},
    {0, "\xFE\xFF"sv, "text in UTF-16, expected UTF-8"},
};

}  // namespace

std::string KindOfNoText(std::string_view bytes) {
  for (const Signature& s : kSignatures) {
    if (bytes.size() > s.at && bytes.substr(s.at).starts_with(s.bytes)) return s.kind;
  }
  const std::string_view first = bytes.substr(0, 64 * 1024);
  size_t zeros[2] = {};  // at even and odd places
  for (size_t i = 0; i < first.size(); ++i) zeros[i % 2] += first[i] == '\0';
  if ((zeros[0] + zeros[1]) * 100 > first.size()) {
    const bool wide =
        std::max(zeros[0], zeros[1]) * 10 > first.size() * 3 && std::min(zeros[0], zeros[1]) * 100 < first.size();
    return wide ? "text in UTF-16, expected UTF-8" : "binary data";
  }
  if (IsValidUtf8(first.substr(0, CertainUtf8Prefix(first)))) return "";
  size_t wrong = 0;
  const std::string repaired = ReplaceInvalidUtf8(first);
  for (size_t at = repaired.find("\xEF\xBF\xBD"); at != std::string::npos; at = repaired.find("\xEF\xBF\xBD", at + 3))
    ++wrong;
  if (wrong * 5 < first.size()) return "";
  return absl::StrCat("binary data, or text in another encoding than UTF-8 (", 100 * wrong / first.size(),
                      " % of its bytes are not)");
}

}  // namespace duo
