// The gradient of window attention. An item is a chunk of tokens as query rows of one KV head's query heads. The keys
// that its rows see are the chunk's own, the `recent` ones before it and the sinks; it writes the gradients of the
// first, and those of the others to scratch of its own, which a second pass adds up in the order of chunks. So no two
// items write the same place, and results do not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/base/math.h"
#include "kernels/cpu/kv_vector.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"

namespace duo::cpu {
namespace {

constexpr int kTile = kKeyBlock;       // query rows and keys of a tile
constexpr int64_t kChunkTokens = 512;  // of an item, or as many as `recent`

// Keys at consecutive positions, none of them on both sides of the end of the sinks.
struct KeyRange {
  int64_t begin, end;
};

// How the sequence is cut.
struct Cut {
  int64_t rows, sink, recent, window;
  int64_t chunk, chunks;
  int64_t far_keys;  // room for the keys before a chunk that it sees
  int width;         // head_dim padded to whole vectors

  Cut(int64_t rows, const HeadShape& shape, const WindowMask& mask)
      : rows(rows),
        sink(std::min<int64_t>(mask.sink, rows)),
        recent(std::min<int64_t>(mask.recent, rows)),
        window(mask.window),
        chunk(std::max(kChunkTokens, RoundUp(recent, kTile))),
        chunks(CeilDiv(rows, chunk)),
        far_keys(chunks == 1 ? 0 : sink + recent),
        width(RoundUp(shape.head_dim, kVectorFloats)) {}

  int64_t begin(int64_t c) const { return c * chunk; }
  int64_t end(int64_t c) const { return std::min(rows, (c + 1) * chunk); }
  KeyRange sinks_before(int64_t c) const { return {0, std::min(sink, begin(c))}; }
  KeyRange recent_before(int64_t c) const { return {std::min(begin(c), std::max(sink, begin(c) - recent)), begin(c)}; }
  // Where in the chunk's scratch the gradients of key j before it are.
  int64_t far_slot(int64_t c, int64_t j) const { return j < sink ? j : sink + j - recent_before(c).begin; }

  // The keys of [first, first + count) that row p sees, relative to `first`.
  struct Seen {
    int first, last;
  };
  Seen SeenBy(int64_t p, int64_t first, int count) const {
    int64_t from = first;
    if (first >= sink) from = std::max(from, p - recent);
    if (window > 0) from = std::max(from, p - window + 1);
    const int last = static_cast<int>(std::clamp<int64_t>(p + 1 - first, 0, count));
    return {static_cast<int>(std::min<int64_t>(from - first, last)), last};
  }
  // The last row that sees any of them.
  int64_t LastSeeing(int64_t first, int count) const {
    int64_t last = first < sink ? rows - 1 : first + count - 1 + recent;
    if (window > 0) last = std::min(last, first + count - 1 + window - 1);
    return last;
  }
};

// One thread's scratch; vectors of the head are padded with zeros to the width.
struct Tiles {
  float *k, *k_columns, *v, *v_columns;  // a block's keys, times 1 / sqrt(d), and values; [kTile][width] and transposed
  float *dk, *dv;                        // their gradients, [kTile][width], dk not yet times 1 / sqrt(d)
  float *p, *ds;                         // [kTile rows][kTile keys]: scores, then probabilities; gradients of both
  float *p_columns, *ds_columns;
  float* ones;           // [kTile]
  float* delta;          // [group][chunk]: rowsum(dout * out)
  float *q, *dout, *dq;  // the chunk's rows, [group][chunk][width]

  static size_t Floats(const Cut& cut, int group) {
    return size_t{kTile} * (6 * cut.width + 4 * kTile + 1) + size_t(group) * cut.chunk * (1 + 3 * cut.width);
  }
  Tiles(float* at, const Cut& cut, int group) {
    const auto take = [&](size_t floats) { return std::exchange(at, at + floats); };
    const size_t keys = size_t{kTile} * cut.width, square = size_t{kTile} * kTile;
    const size_t group_rows = size_t(group) * cut.chunk, queries = group_rows * cut.width;
    k = take(keys);
    k_columns = take(keys);
    v = take(keys);
    v_columns = take(keys);
    dk = take(keys);
    dv = take(keys);
    p = take(square);
    ds = take(square);
    p_columns = take(square);
    ds_columns = take(square);
    ones = take(kTile);
    delta = take(group_rows);
    q = take(queries);
    dout = take(queries);
    dq = take(queries);
    std::fill_n(ones, kTile, 1.0f);
  }
};

struct Work {
  View dqkv, dout, out, qkv;
  const float* lse;
  HeadShape shape;
  Cut cut;
  float scale;  // 1 / sqrt(d)
  float* far;   // [kv_heads][chunks][far_keys][2][head_dim]: gradients of keys and values before a chunk

  int64_t q_column(int head, int g) const { return (int64_t{head} * shape.group + g) * shape.head_dim; }
  int64_t k_column(int head) const { return shape.q_cols() + int64_t{head} * shape.head_dim; }
  float* far_at(int head, int64_t c, int64_t slot) const {
    return far + (((head * cut.chunks + c) * cut.far_keys) + slot) * 2 * shape.head_dim;
  }
};

// Vectors of a head, a row of `from` each, padded to the width; times scale.
void LoadVectors(const View& from, int width, float scale, float* to) {
  for (int64_t i = 0; i < from.rows; ++i, to += width) {
    const float* x = from.as<float>() + i * from.stride;
    for (int64_t c = 0; c < from.cols; ++c) to[c] = x[c] * scale;
    std::fill_n(to + from.cols, width - from.cols, 0.0f);
  }
}

// The keys [first, first + count) against the chunk's rows: adds to the rows' dq, and leaves in t.dk and t.dv what
// these rows give.
void AddKeys(const Work& w, int head, int64_t c, int64_t first, int count, const Tiles& t) {
  const SimdKernels& simd = Simd();
  const Cut& cut = w.cut;
  const int d = w.shape.head_dim, width = cut.width;
  const View rows_of_keys = w.qkv.Rows(first, count);
  LoadVectors(rows_of_keys.Cols(w.k_column(head), d), width, w.scale, t.k);
  LoadVectors(rows_of_keys.Cols(w.k_column(head) + w.shape.kv_cols(), d), width, 1.0f, t.v);
  for (float* x : {t.k, t.v}) std::fill_n(x + count * width, (kTile - count) * width, 0.0f);
  simd.transpose(t.k, width, kTile, width, t.k_columns);
  simd.transpose(t.v, width, kTile, width, t.v_columns);
  std::fill_n(t.dk, kTile * width, 0.0f);
  std::fill_n(t.dv, kTile * width, 0.0f);
  const int64_t last_row = std::min(cut.end(c) - 1, cut.LastSeeing(first, count));
  for (int64_t row = std::max(cut.begin(c), first / kTile * kTile); row <= last_row; row += kTile) {
    const int rows = static_cast<int>(std::min<int64_t>(kTile, cut.end(c) - row));
    for (int g = 0; g < w.shape.group; ++g) {
      const int64_t in_chunk = g * cut.chunk + row - cut.begin(c);
      const float *q = t.q + in_chunk * width, *dout = t.dout + in_chunk * width;
      simd.multiply(rows, kTile, width, q, width, t.k_columns, kTile, t.p, kTile, nullptr);
      simd.multiply(rows, kTile, width, dout, width, t.v_columns, kTile, t.ds, kTile, nullptr);
      for (int r = 0; r < rows; ++r) {
        const Cut::Seen seen = cut.SeenBy(row + r, first, count);
        if (seen.first == 0 && seen.last == kTile) continue;
        float* s = t.p + r * kTile;
        std::fill(s, s + seen.first, -INFINITY);
        std::fill(s + seen.last, s + kTile, -INFINITY);
      }
      simd.softmax_gradient(rows, t.p, t.ds, w.lse + (int64_t{head} * w.shape.group + g) * cut.rows + row,
                            t.delta + in_chunk);
      float* dq = t.dq + in_chunk * width;
      simd.multiply(rows, width, kTile, t.ds, kTile, t.k, width, dq, width, t.ones);
      simd.transpose(t.p, kTile, rows, kTile, t.p_columns);
      simd.transpose(t.ds, kTile, rows, kTile, t.ds_columns);
      simd.multiply(kTile, width, rows, t.p_columns, kTile, dout, width, t.dv, width, t.ones);
      simd.multiply(kTile, width, rows, t.ds_columns, kTile, q, width, t.dk, width, t.ones);
    }
  }
}

void RunChunk(const Work& w, int head, int64_t c, const Tiles& t) {
  const Cut& cut = w.cut;
  const int d = w.shape.head_dim, group = w.shape.group, width = cut.width;
  const int64_t begin = cut.begin(c), end = cut.end(c);
  for (int g = 0; g < group; ++g) {
    const int64_t first = g * cut.chunk;
    const int rows = static_cast<int>(end - begin);
    LoadVectors(w.qkv.Rows(begin, rows).Cols(w.q_column(head, g), d), width, 1.0f, t.q + first * width);
    LoadVectors(w.dout.Rows(begin, rows).Cols(w.q_column(head, g), d), width, 1.0f, t.dout + first * width);
    for (int r = 0; r < rows; ++r) {
      const float* o = w.out.as<float>() + (begin + r) * w.out.stride + w.q_column(head, g);
      const float* grad = t.dout + (first + r) * width;
      t.delta[first + r] = static_cast<float>(SumOf<8>(d, [=](int64_t i) { return double{o[i]} * grad[i]; }));
    }
  }
  std::fill_n(t.dq, group * cut.chunk * width, 0.0f);
  const int64_t own_sinks = std::clamp(cut.sink, begin, end);
  for (const KeyRange& keys :
       {cut.sinks_before(c), cut.recent_before(c), KeyRange{begin, own_sinks}, KeyRange{own_sinks, end}}) {
    for (int64_t first = keys.begin; first < keys.end; first += kTile) {
      const int count = static_cast<int>(std::min<int64_t>(kTile, keys.end - first));
      AddKeys(w, head, c, first, count, t);
      for (int i = 0; i < count; ++i) {
        float *dk, *dv;
        if (first < begin) {
          dk = w.far_at(head, c, cut.far_slot(c, first + i));
          dv = dk + d;
        } else {
          dk = w.dqkv.as<float>() + (first + i) * w.dqkv.stride + w.k_column(head);
          dv = dk + w.shape.kv_cols();
        }
        for (int x = 0; x < d; ++x) dk[x] = t.dk[i * width + x] * w.scale;
        std::copy_n(t.dv + i * width, d, dv);
      }
    }
  }
  for (int g = 0; g < group; ++g) {
    for (int64_t row = begin; row < end; ++row) {
      std::copy_n(t.dq + (g * cut.chunk + row - begin) * width, d,
                  w.dqkv.as<float>() + row * w.dqkv.stride + w.q_column(head, g));
    }
  }
}

// Adds to the gradients of chunk c's keys what later chunks gave.
void AddFar(const Work& w, int head, int64_t c) {
  const Cut& cut = w.cut;
  const int d = w.shape.head_dim;
  for (int64_t later = c + 1; later < cut.chunks; ++later) {
    for (const KeyRange& keys : {cut.sinks_before(later), cut.recent_before(later)}) {
      for (int64_t j = std::max(keys.begin, cut.begin(c)); j < std::min(keys.end, cut.end(c)); ++j) {
        const float* from = w.far_at(head, later, cut.far_slot(later, j));
        float* dk = w.dqkv.as<float>() + j * w.dqkv.stride + w.k_column(head);
        float* dv = dk + w.shape.kv_cols();
        for (int i = 0; i < d; ++i) dk[i] += from[i];
        for (int i = 0; i < d; ++i) dv[i] += from[d + i];
      }
    }
  }
}

size_t TileBytes(const Cut& cut, int group) { return Arena::Rounded(Tiles::Floats(cut, group) * sizeof(float)); }
size_t FarBytes(const Cut& cut, const HeadShape& shape) {
  return Arena::Rounded(cut.chunks * cut.far_keys * 2 * shape.kv_cols() * sizeof(float));
}

}  // namespace

absl::Status CheckBackward(const Device& device, int head_dim, int group) {
  return cpu::CheckAttention(device, head_dim, group, KvFormat::kF32);
}

size_t AttendWindowBackwardScratchBytes(const Device& device, int64_t rows, const HeadShape& shape,
                                        const WindowMask& mask) {
  const Cut cut(rows, shape, mask);
  return TileBytes(cut, shape.group) * device.pool().threads() + FarBytes(cut, shape);
}

void AttendWindowBackward(Device& device, View dqkv, View dout, const Partial& of, const WindowRows& rows,
                          Arena& scratch) {
  const HeadShape& shape = rows.shape;
  const size_t mark = scratch.used();
  const Cut cut(rows.qkv.rows, shape, rows.mask);
  const size_t tile_bytes = TileBytes(cut, shape.group);
  char* tiles = static_cast<char*>(scratch.Take(tile_bytes * device.pool().threads()));
  Work work{dqkv,   dout, of.out, rows.qkv, of.lse, shape, cut, 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
            nullptr};
  work.far = static_cast<float*>(scratch.Take(FarBytes(cut, shape)));
  device.pool().ParallelFor(shape.kv_heads * cut.chunks, [&](int64_t item, int thread) {
    const Tiles t(reinterpret_cast<float*>(tiles + thread * tile_bytes), cut, shape.group);
    RunChunk(work, static_cast<int>(item / cut.chunks), item % cut.chunks, t);
  });
  device.pool().ParallelFor(shape.kv_heads * (cut.chunks - 1), [&](int64_t item, int) {
    AddFar(work, static_cast<int>(item / (cut.chunks - 1)), item % (cut.chunks - 1));
  });
  scratch.Rewind(mark);
}

}  // namespace duo::cpu
