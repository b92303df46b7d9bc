// Pattern: the gates that DuoAttention's identification found for a model, one per (layer, KV head); 1 = full attention
// matters, 0 = streaming suffices. The folder format is the one that the paper's authors published
// (github.com/mit-han-lab/duo-attention): full_attention_heads.tsv, one line per layer, one "%.18e" number per KV head
// in the model's original head order, tab-separated, a newline after the last line; and config.json, from which
// sink_size, recent_size and duo's own `models`, `fingerprints` and `provenance_heads` are read, nothing else. Reading
// then writing gives the same bytes. Values only, any thread. Errors name the file, what was expected and what was
// found.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace duo {

// A query head in which an answer shows where it looked, and what its attention counts (attention provenance).
struct ProvenanceHead {
  int32_t layer = 0;
  int32_t head = 0;  // query head
  double weight = 1;
  bool operator==(const ProvenanceHead&) const = default;
};

struct Pattern {
  int layers = 0;
  int kv_heads = 0;                 // per layer
  std::vector<double> gates;        // [layers][kv_heads], as stored, not clipped: published files go down to -0.0014
  int sink = 64;                    // tokens at the start that streaming heads keep
  int recent = 256;                 // tokens before the query that they keep
  std::vector<std::string> models;  // model folder names this pattern is for, besides its own folder's; may be empty
  std::vector<std::string>
      fingerprints;  // of weights this pattern is for, whatever their folder is called; may be empty
  std::vector<ProvenanceHead>
      provenance;  // duo's own `provenance_heads`: [[layer, query head, weight], ..]; may be empty

  double gate(int layer, int head) const { return gates[static_cast<size_t>(layer) * kv_heads + head]; }
  bool operator==(const Pattern&) const = default;
};

// The folder DIR, which holds full_attention_heads.tsv and config.json.
absl::StatusOr<Pattern> ReadPattern(const std::string& dir);

// Writes both files, creating the folder. `config_json` is the text of config.json, one object; PatternConfigJson makes
// the least that will do.
absl::Status WritePattern(const Pattern& pattern, const std::string& config_json, const std::string& dir);
std::string PatternConfigJson(const Pattern& pattern);

// The parts, from memory; `file` is what errors call it.
absl::Status ParsePatternGates(std::string_view text, const std::string& file, Pattern* pattern);
absl::Status ParsePatternConfig(std::string_view text, const std::string& file, Pattern* pattern);
std::string FormatPatternGates(const Pattern& pattern);

// A sentence when the pattern is not layers x kv_heads.
absl::Status CheckPatternShape(const Pattern& pattern, int layers, int kv_heads, const std::string& dir);

}  // namespace duo
