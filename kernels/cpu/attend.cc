#include "kernels/cpu/attend.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/math.h"
#include "kernels/cpu/kv_vector.h"
#include "kernels/cpu/simd.h"

namespace duo::cpu {
namespace {

constexpr int kFewRows = 8;  // up to so many query rows a tile costs more than it saves

// One thread's tiles. Rows of q, scores and o are query rows: token-major, the heads of the group innermost. Vectors
// of the head are padded with zeros to `width`.
struct Tiles {
  int width;
  float* q;       // [kTileRows][width], times 1 / sqrt(d)
  float* o;       // [kTileRows][width], not yet divided by sum
  float* scores;  // [kTileRows][kTileKeys]
  float* rows;    // [kTileKeys][width]: keys as decoded
  float* keys;    // [width][kTileKeys]: transposed
  float* values;  // [kTileKeys][width]
  float* top;     // [kTileRows]: running maximum
  float* sum;     // [kTileRows]: running sum of exp(score - top)
  float* shrink;  // [kTileRows]: what the last block's new maximum makes of o

  static int Width(int d) { return RoundUp(d, kVectorFloats); }
  static size_t Floats(int d) { return size_t{2 * kTileRows + 3 * kTileKeys} * Width(d) + kTileRows * (kTileKeys + 3); }
  Tiles(float* base, int d)
      : width(Width(d)),
        q(base),
        o(q + kTileRows * width),
        scores(o + kTileRows * width),
        rows(scores + kTileRows * kTileKeys),
        keys(rows + kTileKeys * width),
        values(keys + kTileKeys * width),
        top(values + kTileKeys * width),
        sum(top + kTileRows),
        shrink(sum + kTileRows) {}
};

// Up to kTileKeys keys at consecutive positions.
struct KeyBlock {
  int64_t position = 0;
  int count = 0;
  int first = 0;  // nobody sees those before it
};

// The block of `run` that starts at its number n; n moves past it. The block may be empty.
KeyBlock NextBlock(const AttendWork& work, const KeyRun& run, int64_t& n) {
  int64_t end = std::min(run.end, n - n % kTileKeys + kTileKeys);
  KeyBlock block{n, static_cast<int>(end - n)};
  if (run.place == KeyRun::Place::kRingAndStep) {
    block.position = std::max(n - n % kTileKeys, run.limit);
    block.first = static_cast<int>(n - block.position);
    block.count = static_cast<int>(end - block.position);
  }
  if (run.place == KeyRun::Place::kPages) {
    block.position = work.pages->held(n / kPageTokens) * kPageTokens + n % kPageTokens;
    block.count = static_cast<int>(std::clamp<int64_t>(run.limit - block.position, 0, block.count));
  }
  n = end;
  return block;
}

// One vector of a tile: d values and zeros up to the width.
void LoadVector(const Tiles& t, KvFormat format, const uint8_t* codes, const uint8_t* params, int d, float* out) {
  DecodeKvVector(format, codes, params, d, out);
  std::fill_n(out + d, t.width - d, 0.0f);
}

KeyRun::Place PlaceOf(const KeyRun& run, const SeqSpan& span, int64_t position) {
  if (run.place != KeyRun::Place::kRingAndStep) return run.place;
  return position < span.history ? KeyRun::Place::kRing : KeyRun::Place::kStep;
}

// Keys to t.rows and values to t.values.
void LoadBlock(const AttendWork& work, const AttendItem& item, const KeyRun& run, const KeyBlock& block, int64_t n,
               const Tiles& t) {
  const int d = work.shape.head_dim;
  const SeqSpan& span = work.batch->spans[item.span];
  const uint8_t* page = nullptr;
  if (run.place == KeyRun::Place::kPages) {
    const PagedKv& kv = *work.pages;
    page = kv.page_at(item.head, kv.split ? span.split_table : span.table, kv.held(n / kPageTokens));
  }
  std::fill_n(t.rows, block.first * t.width, 0.0f);
  std::fill_n(t.values, block.first * t.width, 0.0f);
  for (int i = block.first; i < block.count; ++i) {
    const int64_t position = block.position + i;
    float *k = t.rows + i * t.width, *v = t.values + i * t.width;
    switch (PlaceOf(run, span, position)) {
      case KeyRun::Place::kPages: {
        const PageLayout& layout = work.pages->page;
        const int token = static_cast<int>(position % kPageTokens);
        LoadVector(t, layout.format, page + layout.k_codes(token), page + layout.k_params(token), d, k);
        LoadVector(t, layout.format, page + layout.v_codes(token), page + layout.v_params(token), d, v);
        break;
      }
      case KeyRun::Place::kRing: {
        const RingKv& kv = *work.ring;
        const int slot = kv.slot_of(position);
        LoadVector(t, kv.format, kv.k_at(span.ring, item.head, slot), nullptr, d, k);
        LoadVector(t, kv.format, kv.v_at(span.ring, item.head, slot), nullptr, d, v);
        break;
      }
      case KeyRun::Place::kRingAndStep:
      case KeyRun::Place::kStep: {
        const float* row = work.qkv.as<float>() + (span.first_row + position - span.history) * work.qkv.stride +
                           work.shape.q_cols() + int64_t{work.first_head + item.head} * d;
        LoadVector(t, KvFormat::kF32, reinterpret_cast<const uint8_t*>(row), nullptr, d, k);
        LoadVector(t, KvFormat::kF32, reinterpret_cast<const uint8_t*>(row + work.shape.kv_cols()), nullptr, d, v);
        break;
      }
    }
  }
}

// A block's keys or values in its page.
CodedVectors InPage(const AttendWork& work, const AttendItem& item, const KeyBlock& block, int64_t n, bool values) {
  const PagedKv& kv = *work.pages;
  const PageLayout& page = kv.page;
  const SeqSpan& span = work.batch->spans[item.span];
  const uint8_t* at = kv.page_at(item.head, kv.split ? span.split_table : span.table, kv.held(n / kPageTokens));
  const int token = static_cast<int>(block.position % kPageTokens);
  return {CodeOf(page.format), at + (values ? page.v_codes(token) : page.k_codes(token)),
          page.code_bytes(),   at + (values ? page.v_params(token) : page.k_params(token)),
          block.count,         page.head_dim};
}

// The same as LoadBlock left them.
CodedVectors InTile(const Tiles& t, const KeyBlock& block, bool values) {
  return {Code::kF32,
          reinterpret_cast<const uint8_t*>(values ? t.values : t.rows),
          static_cast<int64_t>(t.width * sizeof(float)),
          nullptr,
          block.count,
          t.width};
}

void Prefetch(const CodedVectors& x) {
  for (int64_t i = 0; i < x.count * x.stride; i += 64) __builtin_prefetch(x.codes + i, 0, 2);
  for (int64_t i = 0; i < x.count * int64_t{sizeof(KvParams)}; i += 64) __builtin_prefetch(x.params + i, 0, 2);
}

int64_t PositionOf(const AttendWork& work, const AttendItem& item, int token) {
  if (item.list != nullptr) return item.list[token].position;
  return int64_t{work.batch->spans[item.span].history} + item.first_row + token;
}
int64_t StepRowOf(const AttendWork& work, const AttendItem& item, int token) {
  if (item.list != nullptr) return item.list[token].row;
  return int64_t{work.batch->spans[item.span].first_row} + item.first_row + token;
}

// The keys [first, last) of a block that position p sees. One interval: no block lies across the end of the sinks.
struct Seen {
  int first, last;
};
Seen SeenOf(const Mask& mask, const KeyBlock& block, int64_t p) {
  int64_t first = block.position + block.first;
  if (mask.recent >= 0 && block.position >= mask.sink) first = std::max(first, p - mask.recent);
  if (mask.window > 0) first = std::max(first, p - mask.window + 1);
  int64_t end = p + 1;
  if (!mask.part.all()) {
    const KeyRange keys = mask.part.Keys(p);
    first = std::max(first, keys.begin);
    end = keys.end;
  }
  const int last = static_cast<int>(std::clamp<int64_t>(end - block.position, 0, block.count));
  return {static_cast<int>(std::min<int64_t>(first - block.position, last)), last};
}

// One block of keys for the query rows that see any of it: the block at number n of its run.
void AddBlock(const AttendWork& work, const AttendItem& item, const KeyRun& run, const KeyBlock& block, int64_t n,
              const Tiles& t) {
  const SimdKernels& simd = Simd();
  const int group = work.shape.group;
  int begin = 0, end = item.rows;  // tokens that see something: consecutive
  const auto seen_by = [&](int token) { return SeenOf(work.mask, block, PositionOf(work, item, token)); };
  const auto sees = [&](int token) {
    const Seen seen = seen_by(token);
    return seen.first < seen.last;
  };
  while (begin < end && !sees(begin)) ++begin;
  while (begin < end && !sees(end - 1)) --end;
  if (begin == end) return;
  const int first = begin * group, rows = (end - begin) * group;
  float* scores = t.scores + first * kTileKeys;
  const float* q = t.q + first * t.width;
  float* o = t.o + first * t.width;
  // Two ways with different sums: by lanes of a vector for a few rows, straight from the codes, and by tiles.
  const bool few = rows <= kFewRows;
  const bool by_lanes =
      run.place == KeyRun::Place::kPages && (few || work.exact) && work.shape.head_dim % kFewRowsUnit == 0;
  const bool in_place = by_lanes && (few || work.pages->page.format == KvFormat::kF32);
  if (in_place) {
    // While this block is worked on, the next one comes: the processor's own prefetchers begin anew with each.
    const int64_t next = n - n % kTileKeys + kTileKeys;
    if (int64_t number = next; next < run.end) {
      const KeyBlock coming = NextBlock(work, run, number);
      Prefetch(InPage(work, item, coming, next, false));
      Prefetch(InPage(work, item, coming, next, true));
    }
  } else {
    LoadBlock(work, item, run, block, n, t);
  }
  if (by_lanes) {
    simd.dot_codes(in_place ? InPage(work, item, block, n, false) : InTile(t, block, false), rows, q, t.width, scores);
  } else {
    simd.transpose(t.rows, t.width, block.count, t.width, t.keys);
    simd.multiply(rows, kTileKeys, t.width, q, t.width, t.keys, kTileKeys, scores, kTileKeys, nullptr);
  }
  for (int token = begin; token < end; ++token) {
    const Seen seen = seen_by(token);
    if (seen.first == 0 && seen.last == kTileKeys) continue;
    for (int g = 0; g < group; ++g) {
      float* s = t.scores + (token * group + g) * kTileKeys;
      std::fill(s, s + seen.first, -INFINITY);
      std::fill(s + seen.last, s + kTileKeys, -INFINITY);
    }
  }
  simd.softmax(rows, scores, t.top + first, t.sum + first, t.shrink + first);
  if (by_lanes) {
    simd.add_codes(in_place ? InPage(work, item, block, n, true) : InTile(t, block, true), rows, scores,
                   t.shrink + first, o, t.width);
  } else {
    simd.multiply(rows, t.width, block.count, scores, kTileKeys, t.values, t.width, o, t.width, t.shrink + first);
  }
}

void RunItem(const AttendWork& work, const AttendItem& item, const Tiles& t, float* partials, float* partial_lse) {
  const int d = work.shape.head_dim, group = work.shape.group, rows = item.rows * group;
  const int64_t col = int64_t{work.first_head + item.head} * group * d;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const View& queries = work.mask.part.q.data == nullptr ? work.qkv : work.mask.part.q;
  for (int r = 0; r < rows; ++r) {
    const float* q = queries.as<float>() + StepRowOf(work, item, r / group) * queries.stride + col + r % group * d;
    float* tile = t.q + r * t.width;
    for (int i = 0; i < d; ++i) tile[i] = q[i] * scale;
    std::fill_n(tile + d, t.width - d, 0.0f);
  }
  std::fill_n(t.o, rows * t.width, 0.0f);
  std::fill_n(t.top, rows, -INFINITY);
  std::fill_n(t.sum, rows, 0.0f);
  const KeyRun* runs = item.listed != nullptr ? item.listed : item.runs;
  for (int run = 0; run < item.num_runs; ++run) {
    for (int64_t n = runs[run].begin; n < runs[run].end;) {
      const int64_t at = n;
      const KeyBlock block = NextBlock(work, runs[run], n);
      if (block.count == 0) continue;
      AddBlock(work, item, runs[run], block, at, t);
    }
  }
  for (int r = 0; r < rows; ++r) {
    const float inverse = t.sum[r] > 0 ? 1.0f / t.sum[r] : 0.0f, lse = t.top[r] + std::log(t.sum[r]);
    float* o = t.o + r * t.width;
    if (item.partial >= 0) {
      float* partial = partials + (item.partial + r) * d;
      for (int i = 0; i < d; ++i) partial[i] = o[i] * inverse;
      partial_lse[item.partial + r] = t.sum[r] > 0 ? lse : -INFINITY;
      continue;
    }
    const int64_t row = StepRowOf(work, item, r / group), g = r % group;
    float* out = work.out.as<float>() + row * work.out.stride + col + g * d;
    for (int i = 0; i < d; ++i) out[i] = o[i] * inverse;
    if (work.lse != nullptr) {
      work.lse[(int64_t{item.head} * group + g) * work.batch->num_rows + row] = t.sum[r] > 0 ? lse : -INFINITY;
    }
  }
}

// Query row r of a merge: o = sum over partials of exp(lse_i - lse) o_i, in order.
void MergeRow(const AttendWork& work, const AttendMerge& merge, int r, const float* partials,
              const float* partial_lse) {
  const int d = work.shape.head_dim, group = work.shape.group;
  const auto for_each = [&](const auto& visit) {
    for (const AttendMerge::Part& part : merge.parts) {
      for (int32_t k = 0; k < part.count; ++k) visit(part.first + k * part.stride + r);
    }
  };
  float top = -INFINITY;
  for_each([&](int64_t at) { top = std::max(top, partial_lse[at]); });
  const int64_t row = merge.first_row + r / group, g = r % group;
  float* out = work.out.as<float>() + row * work.out.stride + (int64_t{work.first_head + merge.head} * group + g) * d;
  std::fill_n(out, d, 0.0f);
  float sum = 0;
  if (top > -INFINITY) {
    for_each([&](int64_t at) { sum += std::exp(partial_lse[at] - top); });
    for_each([&](int64_t at) {
      const float weight = std::exp(partial_lse[at] - top) / sum;
      const float* o = partials + at * d;
      if (weight > 0) {
        for (int i = 0; i < d; ++i) out[i] += weight * o[i];
      }
    });
  }
  if (work.lse != nullptr) {
    work.lse[(int64_t{merge.head} * group + g) * work.batch->num_rows + row] =
        sum > 0 ? top + std::log(sum) : -INFINITY;
  }
}

size_t TileBytes(int d) { return Arena::Rounded(Tiles::Floats(d) * sizeof(float)); }

}  // namespace

size_t AttendScratchBytes(const Device& device, int head_dim, int64_t partial_rows) {
  return TileBytes(head_dim) * device.pool().threads() + Arena::Rounded(partial_rows * head_dim * sizeof(float)) +
         Arena::Rounded(partial_rows * sizeof(float));
}

void Attend(Device& device, const AttendWork& work, const std::vector<AttendItem>& items,
            const std::vector<AttendMerge>& merges, int64_t partial_rows, Arena& scratch) {
  const size_t mark = scratch.used();
  const int d = work.shape.head_dim, group = work.shape.group;
  char* tiles = static_cast<char*>(scratch.Take(TileBytes(d) * device.pool().threads()));
  float* partials = static_cast<float*>(scratch.Take(partial_rows * d * sizeof(float)));
  float* partial_lse = static_cast<float*>(scratch.Take(partial_rows * sizeof(float)));
  device.pool().ParallelFor(items.size(), [&](int64_t i, int thread) {
    RunItem(work, items[i], Tiles(reinterpret_cast<float*>(tiles + thread * TileBytes(d)), d), partials, partial_lse);
  });
  if (!merges.empty()) {
    device.pool().ParallelFor(merges.size(), [&](int64_t i, int) {
      for (int r = 0; r < merges[i].rows * group; ++r) MergeRow(work, merges[i], r, partials, partial_lse);
    });
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cpu
