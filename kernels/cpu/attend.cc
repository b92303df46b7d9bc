#include "kernels/cpu/attend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/kv_vector.h"

namespace duo::cpu {
namespace {

// One thread's tiles. Rows of q, scores and o are query rows: token-major, the heads of the group innermost.
struct Tiles {
  float* q;       // [kTileRows][d], times 1 / sqrt(d)
  float* o;       // [kTileRows][d], not yet divided by sum
  float* scores;  // [kTileRows][kTileKeys]
  float* keys;    // [d][kTileKeys]: transposed
  float* values;  // [kTileKeys][d]
  float* top;     // [kTileRows]: running maximum
  float* sum;     // [kTileRows]: running sum of exp(score - top)

  static size_t Floats(int d) { return size_t{2} * kTileRows * d + 2 * kTileKeys * d + kTileRows * (kTileKeys + 2); }
  Tiles(float* base, int d)
      : q(base),
        o(q + kTileRows * d),
        scores(o + kTileRows * d),
        keys(scores + kTileRows * kTileKeys),
        values(keys + kTileKeys * d),
        top(values + kTileKeys * d),
        sum(top + kTileRows) {}
};

// Up to kTileKeys keys at consecutive positions.
struct KeyBlock {
  int64_t position = 0;
  int count = 0;
};

// The block of `run` that starts at its number n; n moves past it. The block may be empty.
KeyBlock NextBlock(const AttendWork& work, const KeyRun& run, int64_t& n) {
  int64_t end = std::min(run.end, n - n % kTileKeys + kTileKeys);
  KeyBlock block{n, static_cast<int>(end - n)};
  if (run.place == KeyRun::Place::kPages) {
    block.position = work.pages->held(n / kPageTokens) * kPageTokens + n % kPageTokens;
    block.count = static_cast<int>(std::clamp<int64_t>(run.limit - block.position, 0, block.count));
  }
  n = end;
  return block;
}

void LoadKey(const Tiles& t, int d, int key, const float* k) {
  for (int i = 0; i < d; ++i) t.keys[i * kTileKeys + key] = k[i];
}

void LoadBlock(const AttendWork& work, const AttendItem& item, const KeyRun& run, const KeyBlock& block, int64_t n,
               const Tiles& t) {
  const int d = work.shape.head_dim;
  const SeqSpan& span = work.batch->spans[item.span];
  float k[kMaxHeadDim];
  for (int i = 0; i < block.count; ++i) {
    const int64_t position = block.position + i;
    float* v = t.values + i * d;
    switch (run.place) {
      case KeyRun::Place::kPages: {
        const PagedKv& kv = *work.pages;
        const PageLayout& layout = kv.page;
        const uint8_t* page = kv.page_at(item.head, kv.split ? span.split_table : span.table, kv.held(n / kPageTokens));
        const int token = static_cast<int>(position % kPageTokens);
        DecodeKvVector(layout.format, page + layout.k_codes(token), page + layout.k_params(token), d, k);
        DecodeKvVector(layout.format, page + layout.v_codes(token), page + layout.v_params(token), d, v);
        break;
      }
      case KeyRun::Place::kRing: {
        const RingKv& kv = *work.ring;
        const int slot = kv.slot_of(position);
        DecodeKvVector(kv.format, kv.k_at(span.ring, item.head, slot), nullptr, d, k);
        DecodeKvVector(kv.format, kv.v_at(span.ring, item.head, slot), nullptr, d, v);
        break;
      }
      case KeyRun::Place::kStep: {
        const float* row = work.qkv.as<float>() + (span.first_row + position - span.history) * work.qkv.stride +
                           work.shape.q_cols() + int64_t{work.first_head + item.head} * d;
        std::copy_n(row, d, k);
        std::copy_n(row + work.shape.kv_cols(), d, v);
        break;
      }
    }
    LoadKey(t, d, i, k);
  }
}

// scores = q keys; hidden pairs are -inf.
void Scores(const AttendWork& work, const KeyBlock& block, int64_t first_position, int rows, const Tiles& t) {
  const int d = work.shape.head_dim, group = work.shape.group;
  for (int r = 0; r < rows; ++r) {
    float* s = t.scores + r * kTileKeys;
    std::fill_n(s, kTileKeys, 0.0f);
    for (int i = 0; i < d; ++i) {
      const float q = t.q[r * d + i];
      for (int j = 0; j < kTileKeys; ++j) s[j] += q * t.keys[i * kTileKeys + j];
    }
    const int64_t p = first_position + r / group;
    for (int j = 0; j < kTileKeys; ++j) {
      if (j >= block.count || !work.mask.Sees(p, block.position + j)) s[j] = -INFINITY;
    }
  }
}

// scores become exp(score - top); o and sum follow the new top.
void Softmax(int d, int rows, const Tiles& t) {
  for (int r = 0; r < rows; ++r) {
    float* s = t.scores + r * kTileKeys;
    const float top = std::max(t.top[r], *std::max_element(s, s + kTileKeys));
    if (top == -INFINITY) {
      std::fill_n(s, kTileKeys, 0.0f);
      continue;
    }
    const float shrink = std::exp(t.top[r] - top);
    float sum = 0;
    for (int j = 0; j < kTileKeys; ++j) {
      s[j] = std::exp(s[j] - top);
      sum += s[j];
    }
    t.sum[r] = t.sum[r] * shrink + sum;
    t.top[r] = top;
    if (shrink != 1.0f) {
      for (int i = 0; i < d; ++i) t.o[r * d + i] *= shrink;
    }
  }
}

void AddValues(int d, int rows, int count, const Tiles& t) {
  for (int r = 0; r < rows; ++r) {
    float* o = t.o + r * d;
    for (int j = 0; j < count; ++j) {
      const float p = t.scores[r * kTileKeys + j];
      for (int i = 0; i < d; ++i) o[i] += p * t.values[j * d + i];
    }
  }
}

void RunItem(const AttendWork& work, const AttendItem& item, const Tiles& t, float* partials, float* partial_lse) {
  const int d = work.shape.head_dim, group = work.shape.group, rows = item.rows * group;
  const SeqSpan& span = work.batch->spans[item.span];
  const int64_t step_row = span.first_row + item.first_row, first_position = int64_t{span.history} + item.first_row;
  const int64_t col = int64_t{work.first_head + item.head} * group * d;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (int r = 0; r < item.rows; ++r) {
    const float* q = work.qkv.as<float>() + (step_row + r) * work.qkv.stride + col;
    for (int i = 0; i < group * d; ++i) t.q[r * group * d + i] = q[i] * scale;
  }
  std::fill_n(t.o, rows * d, 0.0f);
  std::fill_n(t.top, rows, -INFINITY);
  std::fill_n(t.sum, rows, 0.0f);
  for (int run = 0; run < item.num_runs; ++run) {
    for (int64_t n = item.runs[run].begin; n < item.runs[run].end;) {
      const int64_t at = n;
      const KeyBlock block = NextBlock(work, item.runs[run], n);
      if (block.count == 0) continue;
      LoadBlock(work, item, item.runs[run], block, at, t);
      Scores(work, block, first_position, rows, t);
      Softmax(d, rows, t);
      AddValues(d, rows, block.count, t);
    }
  }
  for (int r = 0; r < rows; ++r) {
    const float inverse = t.sum[r] > 0 ? 1.0f / t.sum[r] : 0.0f, lse = t.top[r] + std::log(t.sum[r]);
    float* o = t.o + r * d;
    if (item.splits > 1) {
      float* partial = partials + (item.partial + r) * d;
      for (int i = 0; i < d; ++i) partial[i] = o[i] * inverse;
      partial_lse[item.partial + r] = t.sum[r] > 0 ? lse : -INFINITY;
      continue;
    }
    const int64_t row = step_row + r / group, g = r % group;
    float* out = work.out.as<float>() + row * work.out.stride + col + g * d;
    for (int i = 0; i < d; ++i) out[i] = o[i] * inverse;
    if (work.lse != nullptr) {
      work.lse[(int64_t{item.head} * group + g) * work.batch->num_rows + row] = t.sum[r] > 0 ? lse : -INFINITY;
    }
  }
}

// Row r of an item's block: o = sum over splits of exp(lse_s - lse) o_s.
void MergeRow(const AttendWork& work, const AttendItem& first, int r, const float* partials, const float* partial_lse) {
  const int d = work.shape.head_dim, group = work.shape.group, rows = first.rows * group;
  const int64_t at = first.partial + r;
  float top = -INFINITY;
  for (int s = 0; s < first.splits; ++s) top = std::max(top, partial_lse[at + int64_t{s} * rows]);
  const int64_t row = work.batch->spans[first.span].first_row + first.first_row + r / group, g = r % group;
  float* out = work.out.as<float>() + row * work.out.stride + (int64_t{work.first_head + first.head} * group + g) * d;
  std::fill_n(out, d, 0.0f);
  float sum = 0;
  if (top > -INFINITY) {
    for (int s = 0; s < first.splits; ++s) sum += std::exp(partial_lse[at + int64_t{s} * rows] - top);
    for (int s = 0; s < first.splits; ++s) {
      const float weight = std::exp(partial_lse[at + int64_t{s} * rows] - top) / sum;
      const float* o = partials + (at + int64_t{s} * rows) * d;
      if (weight > 0) {
        for (int i = 0; i < d; ++i) out[i] += weight * o[i];
      }
    }
  }
  if (work.lse != nullptr) {
    work.lse[(int64_t{first.head} * group + g) * work.batch->num_rows + row] =
        sum > 0 ? top + std::log(sum) : -INFINITY;
  }
}

size_t TileBytes(int d) { return Arena::Rounded(Tiles::Floats(d) * sizeof(float)); }

}  // namespace

size_t AttendScratchBytes(const Device& device, int head_dim, int64_t partial_rows) {
  return TileBytes(head_dim) * device.pool().threads() + Arena::Rounded(partial_rows * head_dim * sizeof(float)) +
         Arena::Rounded(partial_rows * sizeof(float));
}

void Attend(Device& device, const AttendWork& work, const std::vector<AttendItem>& items, int64_t partial_rows,
            Arena& scratch) {
  const size_t mark = scratch.used();
  const int d = work.shape.head_dim, group = work.shape.group;
  char* tiles = static_cast<char*>(scratch.Take(TileBytes(d) * device.pool().threads()));
  float* partials = static_cast<float*>(scratch.Take(partial_rows * d * sizeof(float)));
  float* partial_lse = static_cast<float*>(scratch.Take(partial_rows * sizeof(float)));
  device.pool().ParallelFor(items.size(), [&](int64_t i, int thread) {
    RunItem(work, items[i], Tiles(reinterpret_cast<float*>(tiles + thread * TileBytes(d)), d), partials, partial_lse);
  });
  if (partial_rows > 0) {
    device.pool().ParallelFor(items.size(), [&](int64_t i, int) {
      if (items[i].splits == 1 || items[i].split != 0) return;
      for (int r = 0; r < items[i].rows * group; ++r) MergeRow(work, items[i], r, partials, partial_lse);
    });
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cpu
