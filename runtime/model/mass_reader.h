// MassReader: where rows of a step looked, read after the step from their queries, which the step kept, and from the
// pages, which hold every key by then. A step of one row that sees everything leaves the masses of pages itself, since
// its attention has the scores anyway (KeptMass); of other rows the keys are read once more. The step itself is the
// same but for that.
//
// A head that is split over ranks has its parts on several: each rank reads its own pages, and the masses are put on
// one measure by the log sum exp over all ranks (kernels/attention_mass.h).
//
// Not thread-safe; borrows nothing beyond a call. Collective: every rank reads the same rows.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "attn_patterns/pattern.h"
#include "kernels/attention_mass.h"
#include "kernels/base/buffer.h"
#include "parallel/communicator.h"
#include "parallel/shard.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/step_plan.h"

namespace duo {

// What a step of one row left: the log masses of the parts of pages.
struct KeptMass {
  float* logs = nullptr;  // device [groups here, by layer and local head][group][pages][parts]; null: nothing
  int64_t pages = 0;
  int parts = 0;
};

class MassReader {
 public:
  // One KV head with provenance heads among its query heads.
  struct Group {
    int layer = 0;
    int kv_head = 0;             // in the model's order
    std::vector<float> weights;  // [group]: of its query heads, 0 for those that are none
    int local = -1;              // among this rank's KV heads; -1: not here, or counted elsewhere
    int place = -1;              // among the groups that are here, by layer and local head
    int64_t column = 0;          // of the kept queries, where it is here
  };

  MassReader() = default;
  // heads: query heads of KV heads that keep everything; their weights add up to 1.
  MassReader(const std::vector<ProvenanceHead>& heads, const RankShard& shard, int group, int head_dim);

  bool empty() const { return groups_.empty(); }
  const std::vector<Group>& groups() const { return groups_; }
  int64_t columns() const { return columns_; }  // of the queries that this rank keeps of a row

  // Copies the queries of `rows` (device [count]) of a layer's qkv into kept [count, columns()] T.
  void Keep(Device& device, int layer, View qkv, const HeadShape& shape, const int32_t* rows, int count,
            View kept) const;

  // The parts of a page that a step of one row can leave; 0: none.
  int KeptParts(const Device& device, const KvCache& cache) const;
  // Floats of the log masses of so many pages.
  int64_t KeptFloats(int64_t pages, int parts) const { return pages * parts * group_ * LocalGroups(); }
  // What attention over `kv` of a layer is to leave of them. No heads: none of them is asked.
  MassOut Leaves(int layer, const PagedKv& kv, const KeptMass& kept) const;

  // Of plan.mass_samples: queries [mass_samples, columns()] T, as kept. arena: free scratch. The same on every rank.
  // kept: of the only one, if the step left it.
  std::vector<RowMass> Read(Device& device, Communicator& comm, const KvCache& cache, View queries,
                            const KeptMass& kept, const StepPlan& plan, Arena& arena) const;
  // Arena bytes that Read takes at sequences of up to so many tokens.
  size_t ScratchBytes(int64_t max_tokens) const;

 private:
  class Row;
  int LocalGroups() const { return static_cast<int>(here_.size()); }
  int RowsHere() const { return LocalGroups() * group_; }
  // Query head `row` of the groups here, among those of all groups.
  int OfAll(int row) const { return here_[row / group_] * group_ + row % group_; }

  std::vector<Group> groups_;
  std::vector<std::pair<int, int>> heads_;  // of each provenance head: its group, and its number there
  std::vector<int> here_;                   // the groups that are here, by place
  std::vector<float> weights_;              // [groups here][group], by place
  int group_ = 1, head_dim_ = 0;
  int64_t columns_ = 0;
};

}  // namespace duo
