// Dual chunk attention ("Training-Free Long-Context Scaling of Large Language Models", arXiv 2402.17463, as Qwen2.5-1M
// has it): no query meets a key at a rotary distance that the model was not trained for. Positions are cut into chunks
// of `length`. A key is rotated by its place in its chunk, once and for all; a query by one of three positions, by
// which chunk the key is in:
//
//   own       the query's own chunk    its place in the chunk
//   previous  the chunk before         that + length, at most `size`
//   earlier   all before that          2 length - 1, at most `size`: the same for all
//
// So up to `size` tokens every distance is the true one, and within the first chunk every angle is plain RoPE's, to the
// bit. Keys of the three kinds are three ranges of positions; what a query attends to in each is a partial result, and
// the three merge by MergeWeights (attention.h).
//
// Beyond `trained` tokens scores are scaled as YaRN does it: keys and queries by 0.1 ln(n / trained) + 1 each. Here n
// is the query's own position + 1, and its query takes both factors: so a row's result depends on no step that it came
// in. One source for host and device code. Pure functions.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/view.h"

namespace duo {

enum class ChunkKind : int32_t { kOwn = 0, kPrevious = 1, kEarlier = 2 };
constexpr int kChunkKinds = 3;

// Keys [begin, end).
struct KeyRange {
  int64_t begin, end;
};

struct DualChunk {
  int32_t length = 0;   // 0: plain RoPE
  int32_t size = 0;     // largest rotary distance; at least length
  int64_t trained = 0;  // 0: scores are never scaled

  DUO_HD int64_t KeyPosition(int64_t position) const { return length == 0 ? position : position % length; }
  DUO_HD int64_t QueryPosition(ChunkKind kind, int64_t position) const {
    if (length == 0) return position;
    const int64_t own = position % length, last = int64_t{2} * length - 1;
    if (kind == ChunkKind::kOwn) return own;
    const int64_t far = kind == ChunkKind::kPrevious ? own + length : last;
    return far < size ? far : size;
  }
  // What scores of the query at this position are multiplied by.
  DUO_HD double Scale(int64_t position) const {
    if (trained == 0 || position < trained) return 1;
    const double each = 0.1 * log(static_cast<double>(position + 1) / static_cast<double>(trained)) + 1;
    return each * each;
  }
  // The keys of this kind that the query at this position sees.
  DUO_HD KeyRange Keys(ChunkKind kind, int64_t position) const {
    if (length == 0) return {0, kind == ChunkKind::kOwn ? position + 1 : 0};
    const int64_t chunk = position / length, begin = chunk * length, before = chunk > 0 ? begin - length : 0;
    if (kind == ChunkKind::kOwn) return {begin, position + 1};
    if (kind == ChunkKind::kPrevious) return {before, begin};
    return {0, before};
  }
};

// What a step's rows attend to in one call: of all keys that they see only those of one kind, with queries rotated for
// it. length 0: all of them.
struct ChunkPart {
  DualChunk chunks;
  ChunkKind kind = ChunkKind::kOwn;
  View q;  // T [rows, q_cols]: these queries; empty: those in qkv

  DUO_HD bool all() const { return chunks.length == 0; }
  DUO_HD KeyRange Keys(int64_t position) const { return chunks.Keys(kind, position); }
};

}  // namespace duo
