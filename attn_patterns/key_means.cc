#include "attn_patterns/key_means.h"

#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "kernels/base/read_file.h"

namespace duo {
namespace {

constexpr char kTitle[] = "duo key means 1";
constexpr size_t kMaxFile = 64 << 20;  // bytes
constexpr int64_t kMaxLayers = 4096, kMaxHeads = 4096, kMaxChannels = 1024, kMaxTokens = int64_t{1} << 40;

// Takes what is before the next `end` from the front of `text`; all of it where there is none.
std::string_view TakeTo(std::string_view* text, char end) {
  const size_t at = text->find(end);
  const std::string_view taken = text->substr(0, at);
  text->remove_prefix(at == std::string_view::npos ? text->size() : at + 1);
  return taken;
}

template <typename T>
bool ReadNumber(std::string_view field, T* number) {
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), *number);
  return error == std::errc() && end == field.data() + field.size();
}

}  // namespace

absl::StatusOr<KeyMeans> ParseKeyMeans(std::string_view text, const std::string& file) {
  const auto bad = [&](const std::string& what) { return absl::InvalidArgumentError(absl::StrCat(file, ": ", what)); };
  std::string_view header = TakeTo(&text, '\n');
  if (TakeTo(&header, '\t') != kTitle) return bad(absl::StrCat("expected \"", kTitle, "\" at its beginning"));
  int64_t sizes[4] = {};
  const int64_t most[4] = {kMaxLayers, kMaxHeads, kMaxChannels, kMaxTokens};
  for (int i = 0; i < 4; ++i) {
    if (!ReadNumber(TakeTo(&header, '\t'), &sizes[i]) || sizes[i] < 1 || sizes[i] > most[i]) {
      return bad("expected the numbers of layers, KV heads, channels and tokens in line 1");
    }
  }
  KeyMeans means;
  means.layers = static_cast<int>(sizes[0]);
  means.kv_heads = static_cast<int>(sizes[1]);
  means.head_dim = static_cast<int>(sizes[2]);
  means.tokens = sizes[3];
  const int64_t lines = sizes[0] * sizes[1];
  for (int64_t line = 0; line < lines; ++line) {
    if (text.empty()) return bad(absl::StrFormat("expected %d lines behind the first, found %d", lines, line));
    std::string_view rest = TakeTo(&text, '\n');
    for (int channel = 0; channel < means.head_dim; ++channel) {
      double value = 0;
      if (!ReadNumber(TakeTo(&rest, '\t'), &value) || !std::isfinite(value) || std::fabs(value) > 1e30) {
        return bad(absl::StrFormat("line %d: expected %d finite numbers", line + 2, means.head_dim));
      }
      means.values.push_back(value);
    }
    if (!rest.empty())
      return bad(absl::StrFormat("line %d: expected %d numbers, found more", line + 2, means.head_dim));
  }
  if (!text.empty()) return bad(absl::StrFormat("expected %d lines behind the first, found more", lines));
  return means;
}

std::string FormatKeyMeans(const KeyMeans& means) {
  DUO_CHECK_EQ(means.values.size(), static_cast<size_t>(means.layers) * means.kv_heads * means.head_dim);
  std::string text =
      absl::StrFormat("%s\t%d\t%d\t%d\t%d\n", kTitle, means.layers, means.kv_heads, means.head_dim, means.tokens);
  for (size_t i = 0; i < means.values.size(); ++i) {
    absl::StrAppendFormat(&text, "%.6g%c", means.values[i], (i + 1) % means.head_dim == 0 ? '\n' : '\t');
  }
  return text;
}

absl::StatusOr<KeyMeans> ReadKeyMeans(const std::string& dir) {
  const std::filesystem::path file = std::filesystem::path(dir) / kKeyMeansFile;
  std::error_code error;
  if (!std::filesystem::exists(file, error)) {
    return absl::NotFoundError(absl::StrCat(file.string(),
                                            ": there is no such file (make it: duo identify --model DIR --key-means "
                                            "TEXT --out ",
                                            dir, ")"));
  }
  absl::StatusOr<std::string> text = ReadFile(file.string(), kMaxFile);
  if (!text.ok()) return text.status();
  return ParseKeyMeans(*text, file.string());
}

absl::Status WriteKeyMeans(const KeyMeans& means, const std::string& dir) {
  const std::filesystem::path file = std::filesystem::path(dir) / kKeyMeansFile, part = file.string() + ".part";
  const std::string text = FormatKeyMeans(means);
  // What cannot be read back is not written.
  if (absl::Status s = ParseKeyMeans(text, file.string()).status(); !s.ok()) return s;
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  {
    std::ofstream out(part, std::ios::binary | std::ios::trunc);
    out << text;
    out.flush();
    if (!out) return absl::DataLossError(absl::StrCat(part.string(), ": cannot be written"));
  }
  std::filesystem::rename(part, file, error);
  if (error) return absl::DataLossError(absl::StrCat(file.string(), ": cannot be written (", error.message(), ")"));
  return absl::OkStatus();
}

}  // namespace duo
