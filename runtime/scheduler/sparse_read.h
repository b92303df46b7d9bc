// SparseRead: what is known of a sequence that was read sparsely: the setting, what audits found, and which densities
// hold from where on. A value that forks copy; copies share what was found. Rank 0's scheduler has one a sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/model/prefill_sparsity.h"

namespace duo {

// In words and numbers, for whoever asks. Masses and errors are of retrieval heads that were read by lists.
struct SparseReport {
  bool sparse() const { return setting != "off"; }
  std::string setting = "off";            // the sequence was read densely
  int64_t audits = 0;                     // blocks of 128 queries that were also read densely
  double mass = 1;                        // share of attention that lists kept: the mean over audits and heads,
  double least_mass = 1;                  // and the least of a head's means, which is that of
  int least_layer = -1, least_head = -1;  // this KV head
  double error = 0;                       // |o - o_dense| / |o_dense|, the mean over audits and heads
  double density = 1;                     // of the pages before a block that are visited now, the mean over heads
};

class SparseRead {
 public:
  // Off as long as every list held all pages.
  PrefillSparsity setting() const { return left_out_ ? setting_ : PrefillSparsity(); }
  // Of a chunk that begins at `position`: [heads], in thousandths. It lies in one window where densities are found.
  std::vector<int32_t> Densities(const PrefillSparsity& setting, int64_t position, size_t heads) const;
  // More of the sequence is read by lists of this setting. left_out: they do not hold all pages; from then on the
  // sequence says that it was read so.
  void Read(const PrefillSparsity& setting, bool left_out) {
    setting_ = setting;
    left_out_ |= left_out;
  }
  // What an audit of the block at `position`, which was read with `densities`, found; heads: [densities].
  void Found(int64_t position, const std::vector<int32_t>& densities, const PageAudit* heads);
  // The sequence is cut to `length` tokens. What an earlier part was found to be is kept; so is the setting, unless
  // nothing is left.
  void Cut(int64_t length);
  // kv_heads: of a layer. heads: which of [layers * kv_heads] may be read by lists.
  SparseReport Report(int kv_heads) const;

  // As saved, and back: the report's numbers and the densities that hold from the sequence's end on are what is kept of
  // earlier audits.
  struct Kept {
    PrefillSparsity setting;
    SparseReport report;
    int64_t length = 0;
    std::vector<int32_t> densities;  // empty: none were found
  };
  Kept Keep(int kv_heads, int64_t length) const;
  static SparseRead Restore(const Kept& kept);

 private:
  struct Head {
    int32_t needed = kDense;    // the least density that kept the target
    int32_t density = kDense;   // that it was read with
    float mass = 0, error = 0;  // mass 0: no rank read this head by lists
  };
  struct Audit {
    int64_t position = 0, from = 0;  // of the block; where what was found begins to count; INT64_MAX: nowhere
    std::vector<Head> heads;
  };
  PrefillSparsity setting_;  // of the last lists
  bool left_out_ = false;
  std::vector<std::shared_ptr<const Audit>> audits_;
  std::shared_ptr<const Kept> kept_;  // of before a restore
};

}  // namespace duo
