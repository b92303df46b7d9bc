// The chunk of a step whose retrieval heads visit page lists (prefill_sparsity.h): its whole blocks by lists, what is
// before and behind them densely, and the audits of some blocks. For model.cc.
#pragma once

#include <vector>

#include "kernels/page_audit.h"
#include "runtime/model/prefill_sparsity.h"

namespace duo {

// A step's sparse rows, as a model runs them. All on the host.
struct SparseStep {
  SparseRows rows;
  std::vector<PageAudit> audits;  // [rows.audited][layers * kv_heads]: the model's heads on this rank are filled in
};

// The whole heads of one layer: `heads` of them lie at [layer * kv_heads + head_ids[i]] of the step's densities and
// audits. rows: the whole chunk, of one sequence, with host_spans.
struct SparseHeads {
  const PagedKv& kv;
  int first = 0;                     // layer * kv_heads
  const std::vector<int>& head_ids;  // [kv.num_heads]
};
void AttendSparsePrefill(Device& device, View out, const StepRows& rows, const SparseHeads& heads, SparseStep& step,
                         Arena& arena);

}  // namespace duo
