// How prefill attention is cut for cuDNN, whose plans have static shapes: which capacities of rows and keys, how many
// KV heads at once. Few shapes, so that they can all be planned before they are needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/base/math.h"
#include "kernels/kv_layout.h"

namespace duo::cuda {

constexpr int64_t kSegmentTokens = 65536;  // of history at a time
constexpr int64_t kLeastRows = 512;        // fewer are cheaper in the flash kernel
constexpr int64_t kMostRows = 32768;
constexpr int64_t kLeastKeys = 1024;
// Calls take turns on a few streams, so that one's last tiles run beside the next one's first. Tiles of 128 rows that
// a call should have for this to fill the GPU.
constexpr int kPrefillStreams = 4;
constexpr int64_t kTileRows = 128, kTilesOfCall = 132 / kPrefillStreams;

inline int64_t PowerOfTwo(int64_t n, int64_t least) {
  int64_t power = least;
  while (power < n) power *= 2;
  return power;
}

struct Slice {
  int64_t first, rows, capacity;
  int64_t partials = 0, done = 0;
};
// Rows in slices whose capacities are powers of two. The last slice is padded where that wastes less than an eighth of
// it, or to the smallest capacity; padding needs no mask, because nobody reads what becomes of those rows.
inline std::vector<Slice> CutRows(int64_t rows) {
  std::vector<Slice> slices;
  for (int64_t first = 0; first < rows;) {
    const int64_t left = rows - first;
    int64_t capacity = kMostRows;
    while (capacity > kLeastRows && left <= capacity - capacity / 8) capacity /= 2;
    slices.push_back({first, std::min(left, capacity), capacity});
    first += capacity;
  }
  return slices;
}
inline int64_t RowCapacity(int64_t rows) {
  const Slice last = CutRows(rows).back();
  return last.first + last.capacity;
}

inline int64_t SegmentTokens(int64_t max_tokens) {
  return std::min(kSegmentTokens, RoundUp(std::max<int64_t>(max_tokens, 1), kPageTokens));
}
// One capacity for every history, so that one plan serves them all: lengths are read on the device, and keys that are
// not there cost nothing.
inline int64_t KeyCapacity(int64_t max_tokens) { return PowerOfTwo(SegmentTokens(max_tokens), kLeastKeys); }
// Tokens of K and V scratch per head: a segment's or the step's own, up to a plan's capacity.
inline int64_t KeyTokens(int64_t rows, int64_t max_tokens, bool cudnn) {
  if (!cudnn) return SegmentTokens(max_tokens);
  return std::max(PowerOfTwo(RowCapacity(rows), kLeastKeys), KeyCapacity(max_tokens));
}

// KV heads of one call, of those left to do.
inline int HeadsAtOnce(int left, int group, int64_t row_capacity) {
  int count = 1;
  while (count * 2 <= left && count * group * row_capacity < kTileRows * kTilesOfCall) count *= 2;
  return count;
}

}  // namespace duo::cuda
