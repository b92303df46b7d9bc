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

constexpr double kNothing = -30;  // a share of e^-30 is left out of sums: nobody would see it

// Of the head's [group][pages] query heads; a work item is some pages of one head.
void PagesOfHead(const MassHead& head, const float* q, float* out, int64_t begin, int64_t end, int64_t pages) {
  const MassRow& row = head.row;
  std::vector<float> scores(static_cast<size_t>(row.group) * kPageTokens);
  for (int64_t p = begin; p < end; ++p) {
    std::fill(scores.begin(), scores.end(), -INFINITY);
    ForKeys(row, head.kv, q, p, [&](int g, int t, float score) { scores[g * kPageTokens + t] = score; });
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
}

std::vector<std::vector<float>> ScaledOf(std::span<const MassHead> heads) {
  std::vector<std::vector<float>> q;
  for (const MassHead& head : heads) q.push_back(Scaled(head.row, head.kv.page.head_dim));
  return q;
}

}  // namespace

void PageMass(Device& device, float* out, std::span<const MassHead> heads, int64_t pages) {
  const std::vector<std::vector<float>> q = ScaledOf(heads);
  const int64_t each = CeilDiv(pages, kPagesPerItem), head_floats = heads[0].row.group * pages;
  device.pool().ParallelFor(each * static_cast<int64_t>(heads.size()), [&](int64_t item, int) {
    const int64_t h = item / each, begin = item % each * kPagesPerItem;
    PagesOfHead(heads[h], q[h].data(), out + h * head_floats, begin, std::min(pages, begin + kPagesPerItem), pages);
  });
}

void KeyScores(Device& device, float* out, std::span<const MassHead> heads, const int32_t* pages, int count) {
  const std::vector<std::vector<float>> q = ScaledOf(heads);
  const int group = heads[0].row.group;
  device.pool().ParallelFor(count * static_cast<int64_t>(heads.size()), [&](int64_t item, int) {
    const int64_t h = item / count, i = item % count;
    float* to = out + h * group * count * kPageTokens;
    for (int g = 0; g < group; ++g) std::fill_n(to + (g * count + i) * kPageTokens, kPageTokens, -INFINITY);
    ForKeys(heads[h].row, heads[h].kv, q[h].data(), pages[i],
            [&](int g, int t, float score) { to[(g * count + i) * kPageTokens + t] = score; });
  });
}

// Scores are gone once attention has used them: the keys are read once more.
int MassParts(const Device&, int, const PagedKv&) { return 1; }

void AttendPagesWithMass(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv,
                         const MassOut& mass, Arena& scratch) {
  cpu::AttendPages(device, to, rows, kv, scratch);
  const SeqSpan& span = rows.batch.host_spans[0];
  const int64_t width = int64_t{rows.shape.group} * rows.shape.head_dim;
  std::vector<MassHead> heads;
  for (int h = 0; h < kv.num_heads; ++h) {
    if ((mass.heads >> h & 1) == 0) continue;
    const float* q = rows.qkv.as<float>() + span.first_row * rows.qkv.stride + (kv.first_head + h) * width;
    heads.push_back({{q, rows.shape.group, h, kv.split ? span.split_table : span.table, span.history}, kv});
  }
  if (!heads.empty()) cpu::PageMass(device, mass.logs, heads, mass.pages);
}

void LogSums(Device& device, float* out, const LogMasses& of) {
  const int64_t count = of.count * of.parts;
  device.pool().ParallelFor(of.rows, [&](int64_t row, int) {
    const float *begin = of.logs + row * of.row_floats(), *end = begin + count;
    const float top = count == 0 ? -INFINITY : *std::max_element(begin, end);
    double sum = 0;
    for (const float* log = begin; top > -INFINITY && log < end; ++log) {
      const double x = *log - top;
      if (x > kNothing) sum += std::exp(x);
    }
    out[row] = top > -INFINITY ? static_cast<float>(top + std::log(sum)) : -INFINITY;
  });
}

void SumShares(Device& device, float* out, const LogMasses& of, const float* lse, const float* weights) {
  constexpr int64_t kEach = 1024;
  device.pool().ParallelFor(CeilDiv(of.count, kEach), [&](int64_t item, int) {
    const int64_t begin = item * kEach, end = std::min(of.count, begin + kEach);
    std::vector<double> sums(end - begin);
    for (int row = 0; row < of.rows; ++row) {
      if (weights[row] == 0) continue;
      const float* logs = of.logs + row * of.row_floats() + begin * of.parts;
      for (int64_t i = 0; i < (end - begin) * of.parts; ++i) {
        const double x = double{logs[i]} - lse[row];
        if (x > kNothing) sums[i / of.parts] += double{weights[row]} * std::exp(x);
      }
    }
    std::copy(sums.begin(), sums.end(), out + begin);
  });
}

}  // namespace duo::cpu
