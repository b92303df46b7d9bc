// Page lists on the CPU: the scores of a block's rows are one product with the pooled keys, some rows at a time, and
// the attending is the engine's of attend.h, whose items have runs of listed pages.
#include "kernels/page_lists.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/math.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/kv_vector.h"

namespace duo::cpu {
namespace {

constexpr int kScoreRows = 32;  // rows whose scores of all pages are held at once

int64_t Stride(int64_t pages) { return RoundUp(pages, int64_t{kVectorFloats}); }
int64_t PagesOf(int64_t max_tokens) { return CeilDiv(max_tokens, int64_t{kPageTokens}); }

// A thread's memory while it chooses a list.
struct ChoosingSpace {
  float *q, *scores, *sums;
  static size_t Bytes(int d, int64_t stride) {
    return Arena::Rounded(sizeof(float) * (kScoreRows * (d + stride) + stride));
  }
  ChoosingSpace(void* base, int d, int64_t stride)
      : q(static_cast<float*>(base)), scores(q + kScoreRows * d), sums(scores + kScoreRows * stride) {}
};

// One block of one head.
struct Block {
  const StepRows& rows;
  const PagedKv& kv;
  const PooledKeys& pooled;
  int head;    // of kv
  int first;   // its first row
  int before;  // pages before it
  int stride;  // ListRule::row_stride
};

// Adds to sums [before] the shares that the block's rows give to each page.
void AddShares(const Block& b, const ChoosingSpace& space) {
  const HeadShape& shape = b.rows.shape;
  const int d = shape.head_dim, query_rows = kBlockTokens / b.stride * shape.group;
  const int cols = RoundUp(b.before, kVectorFloats);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const float* means = static_cast<const float*>(b.pooled.means) + int64_t{b.head} * d * b.pooled.stride;
  const int64_t col = int64_t{b.kv.first_head + b.head} * shape.group * d;
  std::fill_n(space.sums, b.before, 0.0f);
  for (int r = 0; r < query_rows; r += kScoreRows) {
    const int count = std::min(kScoreRows, query_rows - r);
    for (int i = 0; i < count; ++i) {
      const int row = b.first + (r + i) / shape.group * b.stride + b.stride - 1;
      const float* q = b.rows.qkv.as<float>() + row * b.rows.qkv.stride + col + (r + i) % shape.group * d;
      for (int k = 0; k < d; ++k) space.q[i * d + k] = q[k] * scale;
    }
    Simd().multiply(count, cols, d, space.q, d, means, static_cast<int>(b.pooled.stride), space.scores,
                    static_cast<int>(b.pooled.stride), nullptr);
    for (int i = 0; i < count; ++i) {
      float* s = space.scores + i * b.pooled.stride;
      const float top = *std::max_element(s, s + b.before);
      float sum = 0;
      for (int j = 0; j < b.before; ++j) sum += s[j] = std::exp(s[j] - top);
      const float inverse = 1.0f / sum;
      for (int j = 0; j < b.before; ++j) space.sums[j] += s[j] * inverse;
    }
  }
}

// The `length` pages of the list; among equals the later page.
void Choose(const float* sums, int before, const ListRule& rule, int length, int32_t* list) {
  std::vector<int32_t> others;
  int32_t* end = list;
  for (int j = 0; j < before; ++j) {
    if (length == before || rule.Always(j, before)) {
      *end++ = j;
    } else {
      others.push_back(j);
    }
  }
  const int64_t left = length - (end - list);
  const auto better = [&](int32_t a, int32_t b) { return sums[a] > sums[b] || (sums[a] == sums[b] && a > b); };
  if (left < std::ssize(others)) std::nth_element(others.begin(), others.begin() + left, others.end(), better);
  std::copy_n(others.begin(), left, end);
  std::sort(list, list + length);
}

}  // namespace

absl::Status CheckPageLists(const Device&, int, int, KvFormat) { return absl::OkStatus(); }

size_t PooledKeysBytes(const Device&, const PagedKv& kv, int64_t max_tokens) {
  return Arena::Rounded(sizeof(float) * kv.num_heads * kv.page.head_dim * Stride(PagesOf(max_tokens)));
}

void PoolKeys(Device& device, PooledKeys* to, const StepRows& rows, const PagedKv& kv, Arena& arena) {
  const SeqSpan& span = rows.batch.host_spans[0];
  const PageLayout& page = kv.page;
  const int d = page.head_dim;
  to->pages = (span.history + span.num_rows) / kPageTokens;
  to->stride = Stride(to->pages);
  float* means = static_cast<float*>(arena.Take(sizeof(float) * kv.num_heads * d * to->stride));
  to->means = means;
  device.pool().ParallelFor(int64_t{kv.num_heads} * to->stride, [&](int64_t i, int) {
    const auto head = static_cast<int>(i / to->stride);
    const int64_t j = i % to->stride;
    float sum[kMaxHeadDim] = {}, key[kMaxHeadDim];
    if (j < to->pages) {
      const uint8_t* at = kv.page_at(head, span.table, j);
      for (int t = 0; t < kPageTokens; ++t) {
        DecodeKvVector(page.format, at + page.k_codes(t), at + page.k_params(t), d, key);
        for (int k = 0; k < d; ++k) sum[k] += key[k];
      }
    }
    for (int k = 0; k < d; ++k) means[(int64_t{head} * d + k) * to->stride + j] = sum[k] / kPageTokens;
  });
}

size_t SelectPagesBytes(const Device& device, int rows, int, const PagedKv& kv, int64_t max_tokens) {
  const int64_t lists = int64_t{kv.num_heads} * (rows / kBlockTokens), pages = PagesOf(max_tokens);
  return Arena::Rounded(sizeof(int32_t) * lists) + Arena::Rounded(sizeof(int32_t) * lists * pages) +
         device.pool().threads() * ChoosingSpace::Bytes(kv.page.head_dim, Stride(pages));
}

void SelectPages(Device& device, PageLists* to, const StepRows& rows, const PagedKv& kv, const PooledKeys& pooled,
                 const ListRule& rule, const int32_t* densities, Arena& arena) {
  TakeLists(to, rows, kv, rule, densities, arena);
  const int d = kv.page.head_dim;
  const size_t mark = arena.used(), space_bytes = ChoosingSpace::Bytes(d, pooled.stride);
  char* spaces = static_cast<char*>(arena.Take(space_bytes * device.pool().threads()));
  // The last blocks have the most pages before them: they go first.
  device.pool().ParallelFor(int64_t{to->heads} * to->blocks, [&](int64_t i, int thread) {
    const auto block = static_cast<int>(to->blocks - 1 - i / to->heads), head = static_cast<int>(i % to->heads);
    const int64_t list = to->list(head, block);
    const int before = to->first_block + block, length = rule.Length(densities[head], before);
    to->lengths[list] = length;
    const ChoosingSpace space(spaces + thread * space_bytes, d, pooled.stride);
    if (length < before) AddShares({rows, kv, pooled, head, block * kBlockTokens, before, rule.row_stride}, space);
    Choose(space.sums, before, rule, length, to->pages + list * to->stride);
  });
  arena.Rewind(mark);
}

size_t AttendPageListsScratchBytes(const Device& device, int, int, const PagedKv& kv, int64_t) {
  return AttendScratchBytes(device, kv.page.head_dim, 0);
}

void AttendPageLists(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, const PageLists& lists,
                     Arena& scratch) {
  const HeadShape& shape = rows.shape;
  AttendWork work{to.out, rows.qkv, to.lse, shape, &rows.batch, kv.first_head, {}, &kv, nullptr};
  // The runs of each list: pages that follow each other are one, the last is the block's own page.
  std::vector<std::vector<KeyRun>> runs(int64_t{lists.heads} * lists.blocks);
  std::vector<AttendItem> items;
  const int tokens = std::max(1, kTileRows / shape.group);
  for (int block = lists.blocks - 1; block >= 0; --block) {
    const int64_t own = lists.first_block + block, end = (own + 1) * kPageTokens;
    for (int head = 0; head < lists.heads; ++head) {
      const int64_t list = lists.list(head, block);
      const int32_t* pages = lists.pages + list * lists.stride;
      std::vector<KeyRun>& of = runs[list];
      for (int i = 0; i < lists.lengths[list] + (lists.own ? 1 : 0); ++i) {
        const int64_t first = (i < lists.lengths[list] ? pages[i] : own) * kPageTokens;
        if (!of.empty() && of.back().end == first) {
          of.back().end += kPageTokens;
        } else {
          of.push_back({KeyRun::Place::kPages, first, first + kPageTokens, end});
        }
      }
      for (int r = 0; r < kBlockTokens; r += tokens) {
        AttendItem item;
        item.head = head;
        item.first_row = block * kBlockTokens + r;
        item.rows = std::min(tokens, kBlockTokens - r);
        item.listed = of.data();
        item.num_runs = static_cast<int>(of.size());
        items.push_back(item);
      }
    }
  }
  Attend(device, work, items, {}, 0, scratch);
}

}  // namespace duo::cpu
