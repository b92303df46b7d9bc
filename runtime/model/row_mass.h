// RowMass: where a row's provenance heads looked. Mass is the share of attention, softmax over all keys that the row
// sees, as the weighted mean over those heads (their weights add up to 1). Called attention provenance: where the model
// looked, which is no proof. A plain value.
#pragma once

#include <cstdint>
#include <vector>

namespace duo {

// Tokens [first, last) of a sequence.
struct TokenRange {
  int32_t first = 0, last = 0;
  bool operator==(const TokenRange&) const = default;
};

struct RowMass {
  int64_t position = 0;       // of the row: it sees as many tokens before it, and itself
  std::vector<float> pages;   // [position / kPageTokens + 1]: of each page's tokens
  std::vector<int32_t> best;  // the pages with the most, descending; at most kBestPages
  std::vector<float> keys;    // [best][kPageTokens]: of each of their tokens; 0 behind the row
  // Of the ranges that the row was asked about: [ranges][provenance heads, as the engine lists them], each head's own
  // mass in the range, whatever its weight.
  std::vector<float> ranges;
};

// Pages whose tokens are looked at one by one.
constexpr int kBestPages = 32;

}  // namespace duo
