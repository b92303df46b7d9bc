// AttentionState with lists of pages: sparse attention and its audits.
#include <algorithm>
#include <functional>

#include "attention_fixture.h"

namespace duo {

AttentionState::Lists AttentionState::AttendListedPart(const ListRule& rule, const std::vector<int32_t>& densities,
                                                       int first_block, int blocks) {
  const int first = first_block * kBlockTokens, count_rows = blocks * kBlockTokens;
  const View qkv = View(qkv_.data(), type_, rows_, shape_.qkv_cols()).Rows(first, count_rows),
             out = View(out_.data(), type_, rows_, shape_.q_cols()).Rows(first, count_rows);
  StepRows rows{qkv, shape_, Batch()};
  SeqSpan span = spans_[0];
  span.history += first;
  span.num_rows = count_rows;
  const Buffer device_span = Upload(device_, std::vector<SeqSpan>{span});
  rows.batch.spans = device_span.as<SeqSpan>();
  rows.batch.host_spans = &span;
  rows.batch.num_rows = rows.batch.max_rows = count_rows;
  rows.batch.max_tokens = span.history + count_rows;
  const int64_t tokens = rows.batch.max_tokens;
  Arena arena = Scratch(device_, PooledKeysBytes(device_, pages_, tokens) +
                                     SelectPagesBytes(device_, rows_, c_.group, pages_, tokens) +
                                     AttendPageListsScratchBytes(device_, rows_, c_.group, pages_, tokens));
  PooledKeys pooled;
  PageLists lists;
  PoolKeys(device_, &pooled, rows, pages_, arena);
  SelectPages(device_, &lists, rows, pages_, pooled, rule, densities.data(), arena);
  AttendPageLists(device_, {out, lse_.as<float>()}, rows, pages_, lists, arena);
  device_.Synchronize();
  Lists all(lists.heads);
  const int64_t count = int64_t{lists.heads} * lists.blocks;
  const std::vector<int32_t> lengths = Download<int32_t>(device_, lists.lengths, count),
                             pages = Download<int32_t>(device_, lists.pages, count * lists.stride);
  for (int h = 0; h < lists.heads; ++h) {
    for (int b = 0; b < lists.blocks; ++b) {
      const auto first = pages.begin() + lists.list(h, b) * lists.stride;
      all[h].emplace_back(first, first + lengths[lists.list(h, b)]);
    }
  }
  return all;
}

std::vector<PageAudit> AttentionState::Audit(const ListRule& rule, const AuditRungs& rungs,
                                             const std::vector<int32_t>& densities) {
  const StepRows rows{View(qkv_.data(), type_, rows_, shape_.qkv_cols()), shape_, Batch()};
  Arena arena =
      Scratch(device_, PooledKeysBytes(device_, pages_, rows.batch.max_tokens) +
                           AuditPagesScratchBytes(device_, c_.group, pages_, shape_.q_cols(), rows.batch.max_tokens));
  PooledKeys pooled;
  PoolKeys(device_, &pooled, rows, pages_, arena);
  std::vector<PageAudit> audits(c_.paged_heads);
  AuditPages(device_, audits.data(), rows, pages_, pooled, rule, rungs, densities.data(), arena);
  return audits;
}

std::pair<double, double> AttentionState::PlainMass(int head, const std::vector<int32_t>& list) {
  const int d = c_.head_dim;
  double mass = 0, difference = 0, size = 0;
  for (int r = 0; r < rows_; ++r) {
    for (int g = 0; g < c_.group; ++g) {
      const float* q = &host_qkv_[size_t(r) * shape_.qkv_cols() + (head * c_.group + g) * d];
      std::vector<const float*> keys[2], values[2];  // of the list, of all
      for (int64_t j = 0; j <= positions_[r]; ++j) {
        const bool listed = j / kPageTokens == positions_[r] / kPageTokens ||
                            std::binary_search(list.begin(), list.end(), j / kPageTokens);
        for (int all = listed ? 0 : 1; all < 2; ++all) {
          keys[all].push_back(Key(0, head, j));
          values[all].push_back(Value(0, head, j));
        }
      }
      const AttentionRow listed = ReferenceAttention(q, keys[0], values[0], d),
                         dense = ReferenceAttention(q, keys[1], values[1], d);
      mass += std::exp(listed.lse - dense.lse);
      for (int k = 0; k < d; ++k) {
        difference += (listed.o[k] - dense.o[k]) * (listed.o[k] - dense.o[k]);
        size += dense.o[k] * dense.o[k];
      }
    }
  }
  return {mass / (rows_ * c_.group), std::sqrt(difference / size)};
}

// Every page of a list has its place by the rule, or a score that no page left out exceeds by more than the rounding of
// the pooled keys explains.
void AttentionState::ExpectListsFollow(const ListRule& rule, const std::vector<int32_t>& densities,
                                       const Lists& lists) {
  const int d = c_.head_dim, first_block = c_.sequences[0].history / kBlockTokens;
  for (int h = 0; h < c_.paged_heads; ++h) {
    for (int b = 0; b < static_cast<int>(lists[h].size()); ++b) {
      const int before = first_block + b;
      SCOPED_TRACE(testing::Message() << "head " << h << " block " << before);
      const std::vector<int32_t>& list = lists[h][b];
      ASSERT_EQ(static_cast<int>(list.size()), rule.Length(densities[h], before));
      ASSERT_TRUE(std::is_sorted(list.begin(), list.end(), std::less_equal<>()));
      std::vector<double> scores(before), s(before), means(size_t(before) * d);
      for (int64_t i = 0; i < int64_t{before} * kPageTokens; ++i) {
        for (int k = 0; k < d; ++k) means[i / kPageTokens * d + k] += Key(0, h, i)[k] / double(kPageTokens);
      }
      double slack = 0;
      for (int r = 0; r < kBlockTokens * c_.group; ++r) {
        if (r / c_.group % rule.row_stride != rule.row_stride - 1) continue;
        const float* q =
            &host_qkv_[size_t(b * kBlockTokens + r / c_.group) * shape_.qkv_cols() + (h * c_.group + r % c_.group) * d];
        double sum = 0;
        for (int j = 0; j < before; ++j) {
          double magnitude = 0;
          s[j] = 0;
          for (int k = 0; k < d; ++k) {
            const double mean = means[size_t(j) * d + k];
            s[j] += q[k] * mean / std::sqrt(double(d));
            magnitude += std::abs(q[k] * mean) / std::sqrt(double(d));
          }
          slack = std::max(slack, magnitude);
          sum += std::exp(s[j]);
        }
        for (int j = 0; j < before; ++j) scores[j] += std::exp(s[j]) / sum;
      }
      // A share's exponent errs by two roundings of its score's terms, as its sum's does.
      const double allowed = std::exp(8 * slack * UnitRoundoff(type_)) + 1e-4;
      double least_chosen = INFINITY, most_left = 0;
      for (int j = 0; j < before; ++j) {
        const bool listed = std::binary_search(list.begin(), list.end(), j);
        if (rule.Always(j, before)) {
          EXPECT_TRUE(listed) << "page " << j;
        } else if (listed) {
          least_chosen = std::min(least_chosen, scores[j]);
        } else {
          most_left = std::max(most_left, scores[j]);
        }
      }
      EXPECT_GE(least_chosen * allowed, most_left);
    }
  }
}

void AttentionState::ExpectListedResult(const Lists& lists) {
  const int first_block = c_.sequences[0].history / kBlockTokens;
  CompareRows(0, c_.paged_heads, true, [&](const SequenceCase&, int head, int64_t p, int64_t j) {
    const std::vector<int32_t>& list = lists[head][p / kBlockTokens - first_block];
    return j / kPageTokens == p / kBlockTokens || std::binary_search(list.begin(), list.end(), j / kPageTokens);
  });
}

}  // namespace duo
