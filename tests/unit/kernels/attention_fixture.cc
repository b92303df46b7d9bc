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
  const bool others = c.part.kind != ChunkKind::kOwn;
  if (others) host_q_ = Normal(rng, size_t(rows_) * shape_.q_cols(), 1.5f);
  for (int r = 0; r < rows_ && !others; ++r) {
    const auto row = host_qkv_.begin() + int64_t{r} * shape_.qkv_cols();
    host_q_.insert(host_q_.end(), row, row + shape_.q_cols());
  }
  for (float& x : host_q_) x = Rounded(type_, x);

  qkv_ = UploadAs(device, type_, host_qkv_);
  q_ = UploadAs(device, type_, host_q_);
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

StepRows AttentionState::Rows(const SeqBatch& batch) const {
  StepRows rows{View(qkv_.data(), type_, rows_, shape_.qkv_cols()), shape_, batch};
  rows.part = c_.part;
  if (c_.part.kind != ChunkKind::kOwn) rows.part.q = View(q_.data(), type_, rows_, shape_.q_cols());
  return rows;
}

void AttentionState::AttendPaged(bool prefill, bool own_square) {
  View out(out_.data(), type_, rows_, shape_.q_cols());
  const SeqBatch batch = Batch();
  if (prefill) {
    Arena scratch =
        Scratch(device_, PrefillScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens, !c_.part.all()));
    AttendPrefill(device_, {out, lse_.as<float>()}, Rows(batch), pages_, own_square, scratch);
  } else {
    Arena scratch =
        Scratch(device_, DecodeScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens, !c_.part.all()));
    AttendPages(device_, {out, lse_.as<float>()}, Rows(batch), pages_, scratch);
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
  Arena scratch =
      Scratch(device_, DecodeScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens, !c_.part.all()));
  StepRows rows = Rows(batch);
  rows.qkv = qkv.Rows(span.first_row, span.num_rows);
  if (rows.part.q.data != nullptr) rows.part.q = rows.part.q.Rows(span.first_row, span.num_rows);
  AttendPages(device_, {out.Rows(span.first_row, span.num_rows)}, rows, pages_, scratch);
  device_.Synchronize();
}

void AttentionState::AttendPagedByPlan(int times) {
  View qkv(qkv_.data(), type_, rows_, shape_.qkv_cols()), out(out_.data(), type_, rows_, shape_.q_cols());
  SeqBatch batch = Batch();
  Arena plans = Scratch(device_, PagesPlanBytes(device_, rows_, pages_));
  PlanPages(device_, batch, c_.group, pages_, plans);
  Arena scratch =
      Scratch(device_, DecodeScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens, !c_.part.all()));
  for (int i = 0; i < times; ++i) {
    device_.Fill(out_.data(), 0xff, out_.size());
    AttendPages(device_, {out, lse_.as<float>()}, {qkv, shape_, batch}, pages_, scratch);
  }
  device_.Synchronize();
}

void AttentionState::AttendRinged() {
  View out(out_.data(), type_, rows_, shape_.q_cols());
  Arena scratch = Scratch(device_, StreamingScratchBytes(device_, rows_, c_.group, rings_));
  const StepRows rows = Rows(Batch());
  AttendStreaming(device_, {out}, rows, rings_, scratch);
  StoreRings(device_, rows, rings_);
  device_.Synchronize();
}

std::vector<float> AttentionState::AttendTogether() {
  View qkv(qkv_.data(), type_, rows_, shape_.qkv_cols()), out(out_.data(), type_, rows_, shape_.q_cols());
  StepRows rows{qkv, shape_, Batch()};
  rows.batch.may_share = false;
  if (!StreamsBesidePages(device_, rows, pages_, rings_)) return {};
  rows.streaming.kv = &rings_;
  Arena scratch = Scratch(device_, DecodeScratchBytes(device_, rows_, c_.group, pages_, rows.batch.max_tokens));
  AttendPages(device_, {out, lse_.as<float>()}, rows, pages_, scratch);
  device_.Synchronize();
  std::vector<float> all = Out(), paged = all;
  const int first_ringed = c_.paged_heads * c_.group * c_.head_dim;
  for (size_t i = 0; i < paged.size(); ++i) {
    if (static_cast<int>(i % shape_.q_cols()) >= first_ringed) paged[i] = NAN;
  }
  out_ = UploadAs(device_, type_, paged);
  return all;
}

void AttentionState::AttendFromGraph() {
  View out(out_.data(), type_, rows_, shape_.q_cols());
  SeqBatch batch = Batch();
  batch.host_spans = nullptr;  // a graph knows bounds only
  Arena scratch =
      Scratch(device_, DecodeScratchBytes(device_, rows_, c_.group, pages_, batch.max_tokens, !c_.part.all()));
  Arena ring_scratch = Scratch(device_, StreamingScratchBytes(device_, rows_, c_.group, rings_));
  auto attend = [&] {
    StepRows rows = Rows(batch);
    AttendStreaming(device_, {out}, rows, rings_, ring_scratch);
    rows.blocks_beside = 100;
    AttendPages(device_, {out, lse_.as<float>()}, rows, pages_, scratch);
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

}  // namespace duo
