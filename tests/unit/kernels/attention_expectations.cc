// What a step of attention must have written: outputs beside the reference's, and decoded and stored keys and values.
#include <algorithm>
#include <cmath>
#include <functional>

#include "attention_fixture.h"

namespace duo {

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
        const KeyRange kind = c_.part.Keys(positions_[r]);
        if (!c_.part.all() && (j < kind.begin || j >= kind.end)) continue;
        keys.push_back(Key(s, h, j));
        values.push_back(Value(s, h, j));
      }
      for (int g = 0; g < c_.group; ++g) {
        const int q_head = h * c_.group + g;
        const float* q = &host_q_[size_t(r) * shape_.q_cols() + q_head * d];
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
