// A layer's attention state made by hand: a few sequences with histories in pages and rings, and one step's qkv. What
// every key's stored value is, is computed by the scalar codec; the kernels' results are compared with the naive
// reference over exactly the visible pairs. Memory that nothing may read is NaN.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "devices.h"
#include "kernels/attention.h"
#include "kernels/page_audit.h"
#include "reference.h"

namespace duo {

struct SequenceCase {
  int history = 0;
  int rows = 1;
  int ring_begin = 0;
  bool keep_pages = false;
};

struct AttentionCase {
  int head_dim = 64;
  int group = 2;
  int paged_heads = 2;
  int ring_heads = 1;
  KvFormat format = KvFormat::kF32;
  KvFormat ring_format = KvFormat::kF32;
  int slots = 1, first_slot = 0, num_slots = 1;
  int sink = 5, recent = 20, window = 0;
  std::vector<SequenceCase> sequences;
  int shared =
      0;  // tokens at the beginning that lie in the same pages for all sequences; whole ids, within each history
  unsigned seed = 1;
  ChunkPart part = {};  // q: the fixture's, other ones than in qkv, for all kinds but the queries' own chunk
};

class AttentionState {
 public:
  AttentionState(Device& device, const AttentionCase& c);

  // Runs the step on the device: stores, then attends the paged heads (by the decode or the prefill kernel) and the
  // ringed ones, then stores the rings.
  void StoreStep();
  void AttendPaged(bool prefill, bool own_square = true);
  void AttendPagedAlone(int seq);     // its rows by the decode kernel, as if the step had no others
  void AttendPagedByPlan(int times);  // by the decode kernel, so often with one plan; results but the last poisoned
  void AttendRinged();
  // Both by one launch, the rings' stores included, where the device does that; gives all of out, and poisons the
  // ringed heads' part of it. Elsewhere empty.
  std::vector<float> AttendTogether();
  // Of the one sequence, whose rows are whole blocks: chooses the pages of each block (densities: one a head), and
  // attends to those. Gives the lists, [head][block].
  using Lists = std::vector<std::vector<std::vector<int32_t>>>;
  Lists AttendListed(const ListRule& rule, const std::vector<int32_t>& densities) {
    return AttendListedPart(rule, densities, 0, rows_ / kBlockTokens);
  }
  // Of its one block. And what plain attention says of a list: the share of attention on it and on the block's own
  // page, and the relative error of the results.
  std::vector<PageAudit> Audit(const ListRule& rule, const AuditRungs& rungs, const std::vector<int32_t>& densities);
  std::pair<double, double> PlainMass(int head, const std::vector<int32_t>& list);
  // The same of `blocks` of its blocks only, as a step of their own.
  Lists AttendListedPart(const ListRule& rule, const std::vector<int32_t>& densities, int first_block, int blocks);
  // The paged and the ringed attention from a recorded graph, replayed over poisoned results. CUDA only.
  void AttendFromGraph();

  // The results against the reference.
  void ExpectPagesStored();  // bytes of every page that this step wrote
  void ExpectStepDecoded();  // qkv holds what the stores return
  void ExpectPagedResult(bool history_only, bool own_square = true);
  void ExpectListsFollow(const ListRule& rule, const std::vector<int32_t>& densities, const Lists& lists);
  void ExpectListedResult(const Lists& lists);
  void ExpectRingedResult();
  void ExpectRingsStored();

  std::vector<float> Out() { return DownloadAs(device_, type_, out_.data(), rows_ * shape_.q_cols()); }
  std::vector<float> Lse() { return Download<float>(device_, lse_.data(), c_.paged_heads * c_.group * rows_); }
  SeqBatch Batch() const;
  const PagedKv& pages() const { return pages_; }
  const RingKv& rings() const { return rings_; }

 protected:
  float* Key(int seq, int head, int64_t position) { return Kv(keys_, seq, head, position); }
  float* Value(int seq, int head, int64_t position) { return Kv(values_, seq, head, position); }
  float* Kv(std::vector<std::vector<float>>& all, int seq, int head, int64_t position) {
    return all[seq].data() + (position * shape_.kv_heads + head) * c_.head_dim;
  }
  bool Holds(int64_t position) const { return pages_.holds(position / kPageTokens); }
  void FillHistory();
  // The step as the attention ops take it.
  StepRows Rows(const SeqBatch& batch) const;
  void CompareRows(int first_head, int heads, bool check_lse,
                   const std::function<bool(const SequenceCase&, int64_t p, int64_t j)>& sees) {
    CompareRows(first_head, heads, check_lse,
                [&](const SequenceCase& q, int, int64_t p, int64_t j) { return sees(q, p, j); });
  }
  void CompareRows(int first_head, int heads, bool check_lse,
                   const std::function<bool(const SequenceCase&, int head, int64_t p, int64_t j)>& sees);

  Device& device_;
  AttentionCase c_;
  DType type_;
  HeadShape shape_;
  int rows_ = 0;
  std::vector<std::vector<float>> keys_, values_;  // [seq][position][kv head][d], as stored
  std::vector<float> host_qkv_;                    // as given
  std::vector<float> host_q_;                      // [rows][q_cols]: the queries that attend
  std::vector<SeqSpan> spans_;
  std::vector<int32_t> row_seq_, positions_, tables_;
  std::vector<uint8_t> host_pages_, host_rings_;
  Buffer qkv_, q_, out_, lse_, page_memory_, ring_memory_, device_spans_, device_row_seq_, device_positions_,
      device_tables_;
  PagedKv pages_;
  RingKv rings_;
};

}  // namespace duo
