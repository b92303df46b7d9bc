// KeyMeans: the mean of a model's keys over the tokens of a text, one vector per (layer, KV head), in the model's
// original head order: of keys as RoPE takes them, behind the norm of keys where the model has one. A key's mean tells
// no token from another, but takes levels of a coded KV cache (runtime/model/key_shift.h takes it away).
//
// The file is key_means.tsv, in a pattern's folder or another. Its first line is
//   duo key means 1 <tab> layers <tab> KV heads <tab> channels <tab> tokens that they are the mean of
// and one line for each layer and KV head follows, KV heads fastest, of tab-separated "%.6g" numbers, a newline after
// the last line. Reading then writing gives the same bytes. Values only, any thread. Errors name the file, what was
// expected and what was found.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace duo {

inline constexpr char kKeyMeansFile[] = "key_means.tsv";

struct KeyMeans {
  int layers = 0, kv_heads = 0, head_dim = 0;
  int64_t tokens = 0;          // that they are the mean of
  std::vector<double> values;  // [layers][kv_heads][head_dim]
};

// From the folder DIR; NOT_FOUND, with how to get it, where it has none.
absl::StatusOr<KeyMeans> ReadKeyMeans(const std::string& dir);
// Creates the folder.
absl::Status WriteKeyMeans(const KeyMeans& means, const std::string& dir);

// The parts, from memory; `file` is what errors call it.
absl::StatusOr<KeyMeans> ParseKeyMeans(std::string_view text, const std::string& file);
std::string FormatKeyMeans(const KeyMeans& means);

}  // namespace duo
