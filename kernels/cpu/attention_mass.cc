// A page's keys are scored in blocks of kKeyBlock straight from their codes; pages are cut into work items by their
// number alone.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/math.h"
#include "kernels/cpu/kv_vector.h"
#include "kernels/cpu/simd.h"

namespace duo::cpu {
namespace {

constexpr int kPagesPerItem = 16;
constexpr int kFewRows = 8;  // query heads scored at once

// q times 1 / sqrt(d).
std::vector<float> Scaled(const MassRow& row, int d) {
  std::vector<float> q(static_cast<size_t>(row.group) * d);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<const float*>(row.q)[i] * scale;
  return q;
}

// scores [rows][kKeyBlock] of `rows` query heads with the `count` keys from token `first` of a page.
void ScoreBlock(const PageLayout& layout, const uint8_t* page, int first, int count, int rows, const float* q,
                float* scores) {
  const int d = layout.head_dim;
  if (d % kFewRowsUnit == 0) {
    const CodedVectors keys = {CodeOf(layout.format),
                               page + layout.k_codes(first),
                               layout.code_bytes(),
                               page + layout.k_params(first),
                               count,
                               d};
    Simd().dot_codes(keys, rows, q, d, scores);
    return;
  }
  float key[kMaxHeadDim];
  for (int t = 0; t < count; ++t) {
    DecodeKvVector(layout.format, page + layout.k_codes(first + t), page + layout.k_params(first + t), d, key);
    for (int r = 0; r < rows; ++r) {
      float sum = 0;
      for (int c = 0; c < d; ++c) sum += q[r * d + c] * key[c];
      scores[r * kKeyBlock + t] = sum;
    }
  }
}

// visit(query head, token in the page, score) for every key of page p that the row sees, if the page is held here.
template <typename Visit>
void ForKeys(const MassRow& row, const PagedKv& kv, const float* q, int64_t p, const Visit& visit) {
  if (!kv.holds(p) || p * kPageTokens > row.position) return;
  const int d = kv.page.head_dim;
  const int64_t begin = p * kPageTokens, from = kv.window == 0 ? 0 : row.position - kv.window + 1;
  const int first = static_cast<int>(std::clamp<int64_t>(from - begin, 0, kPageTokens));
  const int last = static_cast<int>(std::clamp<int64_t>(row.position + 1 - begin, 0, kPageTokens));
  if (first >= last) return;
  const uint8_t* page = kv.page_at(row.head, row.table, p);
  float scores[kFewRows * kKeyBlock];
  for (int g = 0; g < row.group; g += kFewRows) {
    const int rows = std::min(kFewRows, row.group - g);
    for (int t = first; t < last; t += kKeyBlock) {
      const int count = std::min(kKeyBlock, last - t);
      ScoreBlock(kv.page, page, t, count, rows, q + static_cast<size_t>(g) * d, scores);
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < count; ++i) visit(g + r, t + i, scores[r * kKeyBlock + i]);
      }
    }
  }
}

}  // namespace

void PageMass(Device& device, float* out, const MassRow& row, const PagedKv& kv, int64_t pages) {
  const std::vector<float> q = Scaled(row, kv.page.head_dim);
  device.pool().ParallelFor(CeilDiv(pages, kPagesPerItem), [&](int64_t item, int) {
    std::vector<float> scores(static_cast<size_t>(row.group) * kPageTokens);
    for (int64_t p = item * kPagesPerItem, end = std::min(pages, p + kPagesPerItem); p < end; ++p) {
      std::fill(scores.begin(), scores.end(), -INFINITY);
      ForKeys(row, kv, q.data(), p, [&](int g, int t, float score) { scores[g * kPageTokens + t] = score; });
      for (int g = 0; g < row.group; ++g) {
        const float* s = scores.data() + static_cast<ptrdiff_t>(g) * kPageTokens;
        const float top = *std::max_element(s, s + kPageTokens);
        float sum = 0;
        if (top > -INFINITY) {
          for (int t = 0; t < kPageTokens; ++t) sum += std::exp(s[t] - top);
        }
        out[g * pages + p] = sum > 0 ? top + std::log(sum) : -INFINITY;
      }
    }
  });
}

void KeyScores(Device& device, float* out, const MassRow& row, const PagedKv& kv, const int32_t* pages, int count) {
  const std::vector<float> q = Scaled(row, kv.page.head_dim);
  device.pool().ParallelFor(count, [&](int64_t i, int) {
    for (int g = 0; g < row.group; ++g) std::fill_n(out + (g * count + i) * kPageTokens, kPageTokens, -INFINITY);
    ForKeys(row, kv, q.data(), pages[i],
            [&](int g, int t, float score) { out[(g * count + i) * kPageTokens + t] = score; });
  });
}

}  // namespace duo::cpu
