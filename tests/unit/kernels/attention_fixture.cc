#include "attention_fixture.h"

#include <algorithm>
#include <functional>

namespace duo {
namespace {

// Token `t` of a page, as it has to be stored.
void PutToken(const PageLayout& layout, int t, const StoredVector& k, const StoredVector& v, uint8_t* page) {
  std::copy(k.codes.begin(), k.codes.end(), page + layout.k_codes(t));
  std::copy(v.codes.begin(), v.codes.end(), page + layout.v_codes(t));
  std::copy(k.params.begin(), k.params.end(), page + layout.k_params(t));
  std::copy(v.params.begin(), v.params.end(), page + layout.v_params(t));
}

}  // namespace

AttentionState::AttentionState(Device& device, const AttentionCase& c)
    : device_(device), c_(c), type_(ActivationType(device)) {
  std::mt19937 rng(c.seed);
  shape_ = {c.head_dim, c.group, c.paged_heads + c.ring_heads};
  const int num_seqs = static_cast<int>(c.sequences.size());
  int64_t most_ids = 1;
  for (int s = 0; s < num_seqs; ++s) {
    const SequenceCase& q = c.sequences[s];
    const int64_t pages = (q.history + q.rows + kPageTokens - 1) / kPageTokens;
    most_ids = std::max(most_ids, (pages + c.slots - 1) / c.slots);
    // Tables and rings are given out of order, to see that they are looked up.
    spans_.push_back({rows_, q.rows, q.history, num_seqs - 1 - s, num_seqs - 1 - s, (s + 1) % num_seqs, q.ring_begin,
                      q.keep_pages ? 1 : 0});
    for (int r = 0; r < q.rows; ++r) {
      row_seq_.push_back(s);
      positions_.push_back(q.history + r);
    }
    rows_ += q.rows;
  }
  // Page ids: a permutation over all tables.
  tables_.resize(num_seqs * most_ids);
  for (size_t i = 0; i < tables_.size(); ++i) tables_[i] = static_cast<int32_t>(i);
  std::shuffle(tables_.begin(), tables_.end(), rng);
  for (const SeqSpan& span : spans_) {
    std::copy_n(&tables_[spans_[0].table * most_ids], c.shared / (kPageTokens * c.slots),
                &tables_[span.table * most_ids]);
  }

  pages_.page = {c.format, c.head_dim};
  pages_.num_heads = c.paged_heads;
  pages_.first_head = 0;
  pages_.slots = c.slots;
  pages_.first_slot = c.first_slot;
  pages_.num_slots = c.num_slots;
  pages_.split = c.slots > 1;
  pages_.table_stride = most_ids;
  pages_.window = c.window;
  pages_.head_stride = static_cast<int64_t>(tables_.size()) * pages_.id_stride();
  host_pages_.assign(pages_.head_stride * std::max(1, c.paged_heads), 0xff);

  rings_.format = c.ring_format;
  rings_.head_dim = c.head_dim;
  rings_.num_heads = c.ring_heads;
  rings_.first_head = c.paged_heads;
  rings_.sink = c.sink;
  rings_.recent = c.recent;
  rings_.window = c.window;
  rings_.ring_stride = rings_.ring_bytes() * c.ring_heads + 256;
  host_rings_.assign(rings_.ring_stride * num_seqs, 0xff);

  for (const SequenceCase& q : c.sequences) {
    const size_t count = size_t(q.history + q.rows) * shape_.kv_cols();
    keys_.push_back(Normal(rng, count, 1.5f));
    values_.push_back(Normal(rng, count));
    for (float& x : keys_.back()) x = Rounded(type_, x);
    for (float& x : values_.back()) x = Rounded(type_, x);
    std::copy_n(keys_[0].begin(), size_t(c.shared) * shape_.kv_cols(), keys_.back().begin());
    std::copy_n(values_[0].begin(), size_t(c.shared) * shape_.kv_cols(), values_.back().begin());
  }
  host_qkv_ = Normal(rng, size_t(rows_) * shape_.qkv_cols(), 1.5f);
  for (float& x : host_qkv_) x = Rounded(type_, x);
  for (int r = 0; r < rows_; ++r) {
    for (int h = 0; h < shape_.kv_heads; ++h) {
      float* k = &host_qkv_[size_t(r) * shape_.qkv_cols() + shape_.q_cols() + h * c.head_dim];
      std::copy_n(Key(row_seq_[r], h, positions_[r]), c.head_dim, k);
      std::copy_n(Value(row_seq_[r], h, positions_[r]), c.head_dim, k + shape_.kv_cols());
    }
  }
  FillHistory();

  qkv_ = UploadAs(device, type_, host_qkv_);
  out_ = Allocate(device, Bytes(type_, size_t(rows_) * shape_.q_cols()));
  lse_ = Allocate(device, size_t(rows_) * shape_.q_cols() * 4);
  page_memory_ = Upload(device, host_pages_);
  ring_memory_ = Upload(device, host_rings_);
  device_spans_ = Upload(device, spans_);
  device_row_seq_ = Upload(device, row_seq_);
  device_positions_ = Upload(device, positions_);
  device_tables_ = Upload(device, tables_);
  pages_.base = page_memory_.as<uint8_t>();
  pages_.tables = device_tables_.as<int32_t>();
  rings_.base = ring_memory_.as<uint8_t>();
}

// Encodes every key and value in place (keys_ and values_ become what the stores return) and writes the histories into
// the host images of pages and rings.
void AttentionState::FillHistory() {
  PagedKv pages = pages_;
  pages.base = host_pages_.data();
  pages.tables = tables_.data();
  RingKv rings = rings_;
  rings.base = host_rings_.data();
  for (int s = 0; s < static_cast<int>(spans_.size()); ++s) {
    const SeqSpan& span = spans_[s];
    for (int64_t p = 0; p < span.history + span.num_rows; ++p) {
      const bool in_pages = p < span.history || span.keep_pages;
      const bool in_ring =
          p < span.history && (p < c_.sink || (p >= span.ring_begin && p >= span.history - (c_.recent + 1)));
      for (int h = 0; h < shape_.kv_heads; ++h) {
        const bool paged = h < c_.paged_heads;
        float *k = Key(s, h, p), *v = Value(s, h, p);
        const KvFormat format = paged ? c_.format : c_.ring_format;
        const StoredVector stored_k = ReferenceStore(format, k, c_.head_dim),
                           stored_v = ReferenceStore(format, v, c_.head_dim);
        std::copy(stored_k.decoded.begin(), stored_k.decoded.end(), k);
        std::copy(stored_v.decoded.begin(), stored_v.decoded.end(), v);
        if (paged && in_pages && pages.holds(p / kPageTokens)) {
          uint8_t* page = pages.page_at(h, span.table, p / kPageTokens);
          const int t = p % kPageTokens;
          PutToken(pages.page, t, stored_k, stored_v, page);
        }
        if (!paged && in_ring) {
          const int slot = rings.slot_of(p), ring_head = h - c_.paged_heads;
          std::copy(stored_k.codes.begin(), stored_k.codes.end(), rings.k_at(span.ring, ring_head, slot));
          std::copy(stored_v.codes.begin(), stored_v.codes.end(), rings.v_at(span.ring, ring_head, slot));
        }
      }
    }
  }
}

SeqBatch AttentionState::Batch() const {
  SeqBatch batch;
  batch.spans = device_spans_.as<SeqSpan>();
  batch.row_seq = device_row_seq_.as<int32_t>();
  batch.positions = device_positions_.as<int32_t>();
  batch.host_spans = spans_.data();
  batch.num_seqs = static_cast<int>(spans_.size());
  batch.num_rows = rows_;
  for (const SeqSpan& span : spans_) {
    batch.max_rows = std::max(batch.max_rows, span.num_rows);
    batch.max_tokens = std::max<int64_t>(batch.max_tokens, span.history + span.num_rows);
  }
  return batch;
}

void AttentionState::StoreStep() {
  View qkv(qkv_.data(), type_, rows_, shape_.qkv_cols());
  StoreKv(device_, {qkv, shape_, Batch()}, pages_);
  RoundToRing(device_, qkv, shape_, rings_);
}

void AttentionState::AttendPaged(bool prefill, bool own_square) {
  View qkv(qkv_.data(), type_, rows_, shape_.qkv_cols()), out(out_.data(), type_, rows_, shape_.q_cols());
  const SeqBatch batch = Batch();
  if (prefill) {
    Arena scratch = Scratch(device_, PrefillScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens));
    AttendPrefill(device_, {out, lse_.as<float>()}, {qkv, shape_, batch}, pages_, own_square, scratch);
  } else {
    Arena scratch = Scratch(device_, DecodeScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens));
    AttendPages(device_, {out, lse_.as<float>()}, {qkv, shape_, batch}, pages_, scratch);
  }
  device_.Synchronize();
}

void AttentionState::AttendPagedAlone(int seq) {
  View qkv(qkv_.data(), type_, rows_, shape_.qkv_cols()), out(out_.data(), type_, rows_, shape_.q_cols());
  const SeqSpan& span = spans_[seq];
  SeqSpan alone = span;
  alone.first_row = 0;
  const Buffer device_alone = Upload(device_, std::vector<SeqSpan>{alone});
  const Buffer row_seq = Upload(device_, std::vector<int32_t>(span.num_rows, 0));
  SeqBatch batch;
  batch.spans = device_alone.as<SeqSpan>();
  batch.host_spans = &alone;
  batch.row_seq = row_seq.as<int32_t>();
  batch.positions = device_positions_.as<int32_t>() + span.first_row;
  batch.num_seqs = 1;
  batch.num_rows = batch.max_rows = span.num_rows;
  batch.max_tokens = span.history + span.num_rows;
  Arena scratch = Scratch(device_, DecodeScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens));
  AttendPages(device_, {out.Rows(span.first_row, span.num_rows)},
              {qkv.Rows(span.first_row, span.num_rows), shape_, batch}, pages_, scratch);
  device_.Synchronize();
}

void AttentionState::AttendPagedByPlan(int times) {
  View qkv(qkv_.data(), type_, rows_, shape_.qkv_cols()), out(out_.data(), type_, rows_, shape_.q_cols());
  SeqBatch batch = Batch();
  Arena plans = Scratch(device_, PagesPlanBytes(device_, rows_, pages_));
  PlanPages(device_, batch, c_.group, pages_, plans);
  Arena scratch = Scratch(device_, DecodeScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens));
  for (int i = 0; i < times; ++i) {
    device_.Fill(out_.data(), 0xff, out_.size());
    AttendPages(device_, {out, lse_.as<float>()}, {qkv, shape_, batch}, pages_, scratch);
  }
  device_.Synchronize();
}

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

void AttentionState::AttendRinged() {
  View qkv(qkv_.data(), type_, rows_, shape_.qkv_cols()), out(out_.data(), type_, rows_, shape_.q_cols());
  Arena scratch = Scratch(device_, StreamingScratchBytes(device_, rows_, c_.group, rings_));
  const StepRows rows{qkv, shape_, Batch()};
  AttendStreaming(device_, {out}, rows, rings_, scratch);
  StoreRings(device_, rows, rings_);
  device_.Synchronize();
}

void AttentionState::AttendFromGraph() {
  View qkv(qkv_.data(), type_, rows_, shape_.qkv_cols()), out(out_.data(), type_, rows_, shape_.q_cols());
  SeqBatch batch = Batch();
  batch.host_spans = nullptr;  // a graph knows bounds only
  Arena scratch = Scratch(device_, DecodeScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens));
  Arena ring_scratch = Scratch(device_, StreamingScratchBytes(device_, rows_, c_.group, rings_));
  auto attend = [&] {
    AttendPages(device_, {out, lse_.as<float>()}, {qkv, shape_, batch, /*blocks_beside=*/100}, pages_, scratch);
    AttendStreaming(device_, {out}, {qkv, shape_, batch}, rings_, ring_scratch);
  };
  attend();
  device_.Synchronize();
  const DeviceGraph graph = device_.Capture(attend);
  for (int i = 0; i < 2; ++i) {
    device_.Fill(out_.data(), 0xff, out_.size());
    device_.Launch(graph);
  }
  device_.Synchronize();
}

void AttentionState::CompareRows(int first_head, int heads, bool check_lse,
                                 const std::function<bool(const SequenceCase&, int, int64_t, int64_t)>& sees) {
  const int d = c_.head_dim;
  const std::vector<float> out = Out();
  const std::vector<float> lse = check_lse ? Lse() : std::vector<float>();
  std::vector<float> got, plain, got_lse, plain_lse;
  std::vector<double> truth, truth_lse;
  for (int r = 0; r < rows_; ++r) {
    const int s = row_seq_[r];
    for (int h = first_head; h < first_head + heads; ++h) {
      std::vector<const float*> keys, values;
      for (int64_t j = 0; j <= positions_[r]; ++j) {
        if (!sees(c_.sequences[s], h, positions_[r], j)) continue;
        keys.push_back(Key(s, h, j));
        values.push_back(Value(s, h, j));
      }
      for (int g = 0; g < c_.group; ++g) {
        const int q_head = h * c_.group + g;
        const float* q = &host_qkv_[size_t(r) * shape_.qkv_cols() + q_head * d];
        const AttentionRow exact = ReferenceAttention(q, keys, values, d);
        const PlainAttentionRow simple = PlainAttention(q, keys, values, d, type_);
        truth.insert(truth.end(), exact.o.begin(), exact.o.end());
        plain.insert(plain.end(), simple.o.begin(), simple.o.end());
        const float* o = &out[size_t(r) * shape_.q_cols() + q_head * d];
        got.insert(got.end(), o, o + d);
        if (!check_lse) continue;
        const float l = lse[size_t(q_head - first_head * c_.group) * rows_ + r];
        if (keys.empty()) {
          EXPECT_EQ(l, -INFINITY) << "row " << r << " sees nothing";
        } else {
          got_lse.push_back(l);
          plain_lse.push_back(simple.lse);
          truth_lse.push_back(exact.lse);
        }
      }
    }
  }
  ExpectAsGoodAs(got, plain, truth, type_, "o");
  ExpectAsGoodAs(got_lse, plain_lse, truth_lse, DType::kF32, "lse");
  // Columns of other heads were poisoned and must still be.
  for (int r = 0; r < rows_; ++r) {
    for (int col = 0; col < shape_.q_cols(); ++col) {
      const int head = col / d / c_.group;
      if (head >= first_head && head < first_head + heads) continue;
      ASSERT_TRUE(std::isnan(out[size_t(r) * shape_.q_cols() + col])) << "row " << r << " column " << col;
    }
  }
}

void AttentionState::ExpectPagedResult(bool history_only, bool own_square) {
  CompareRows(0, c_.paged_heads, true, [&](const SequenceCase& q, int64_t p, int64_t j) {
    if (c_.window > 0 && p - j >= c_.window) return false;
    if (history_only && j >= q.history) return own_square;
    return Holds(j);
  });
}

void AttentionState::ExpectRingedResult() {
  CompareRows(c_.paged_heads, c_.ring_heads, false, [&](const SequenceCase& q, int64_t p, int64_t j) {
    if (c_.window > 0 && p - j >= c_.window) return false;
    if (j < c_.sink) return true;
    return p - j <= c_.recent && (j >= q.history || j >= q.ring_begin);
  });
}

void AttentionState::ExpectStepDecoded() {
  const std::vector<float> got = DownloadAs(device_, type_, qkv_.data(), host_qkv_.size());
  for (int r = 0; r < rows_; ++r) {
    const float* row = &got[size_t(r) * shape_.qkv_cols()];
    for (int i = 0; i < shape_.q_cols(); ++i) ASSERT_EQ(row[i], host_qkv_[size_t(r) * shape_.qkv_cols() + i]);
    for (int i = 0; i < shape_.kv_cols(); ++i) {
      const float* k = Key(row_seq_[r], 0, positions_[r]);
      const float* v = Value(row_seq_[r], 0, positions_[r]);
      ASSERT_EQ(row[shape_.q_cols() + i], Rounded(type_, k[i])) << "k, row " << r << " column " << i;
      ASSERT_EQ(row[shape_.q_cols() + shape_.kv_cols() + i], Rounded(type_, v[i])) << "v, row " << r << " column " << i;
    }
  }
}

void AttentionState::ExpectPagesStored() {
  std::vector<uint8_t> expected = host_pages_;
  PagedKv pages = pages_;
  pages.base = expected.data();
  pages.tables = tables_.data();
  for (int r = 0; r < rows_; ++r) {
    const SeqSpan& span = spans_[row_seq_[r]];
    const int64_t p = positions_[r];
    if (span.keep_pages || !Holds(p)) continue;
    for (int h = 0; h < c_.paged_heads; ++h) {
      const float* k = &host_qkv_[size_t(r) * shape_.qkv_cols() + shape_.q_cols() + h * c_.head_dim];
      const StoredVector stored_k = ReferenceStore(c_.format, k, c_.head_dim),
                         stored_v = ReferenceStore(c_.format, k + shape_.kv_cols(), c_.head_dim);
      uint8_t* page = pages.page_at(h, span.table, p / kPageTokens);
      const int t = p % kPageTokens;
      PutToken(pages.page, t, stored_k, stored_v, page);
    }
  }
  EXPECT_EQ(Download<uint8_t>(device_, pages_.base, expected.size()), expected);
}

void AttentionState::ExpectRingsStored() {
  const std::vector<uint8_t> got = Download<uint8_t>(device_, rings_.base, host_rings_.size());
  std::vector<uint8_t> expected = host_rings_;
  RingKv rings = rings_;
  rings.base = expected.data();
  for (int s = 0; s < static_cast<int>(spans_.size()); ++s) {
    const SeqSpan& span = spans_[s];
    const int64_t end = span.history + span.num_rows;
    for (int64_t p = span.history; p < end; ++p) {  // in order: later positions overwrite their slot's earlier ones
      for (int h = 0; h < c_.ring_heads; ++h) {
        const StoredVector k = ReferenceStore(c_.ring_format, Key(s, c_.paged_heads + h, p), c_.head_dim),
                           v = ReferenceStore(c_.ring_format, Value(s, c_.paged_heads + h, p), c_.head_dim);
        std::copy(k.codes.begin(), k.codes.end(), rings.k_at(span.ring, h, rings.slot_of(p)));
        std::copy(v.codes.begin(), v.codes.end(), rings.v_at(span.ring, h, rings.slot_of(p)));
      }
    }
  }
  EXPECT_EQ(got, expected);
}

}  // namespace duo
