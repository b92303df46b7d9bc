#include "runtime/model/step_plan.h"

#include "kernels/base/plain_bytes.h"

namespace duo {
namespace {

// The one list of fields, for both directions.
constexpr auto kFields = [](auto& p, auto visit) {
  return visit(p.kind) && visit(p.table_writes) && visit(p.table_ids) && visit(p.page_copies) && visit(p.ring_copies) &&
         visit(p.tokens) && visit(p.positions) && visit(p.row_seq) && visit(p.spans) && visit(p.sparse.begin) &&
         visit(p.sparse.end) && visit(p.sparse.densities) && visit(p.sparse.rungs) && visit(p.sparse.audited) &&
         visit(p.list_target) && visit(p.draft_weights) && visit(p.sample_rows) && visit(p.samples) && visit(p.rules) &&
         visit(p.edits) && visit(p.masks) && visit(p.mass_samples) && visit(p.mass_ranges) && visit(p.want_logits);
};

}  // namespace

std::string Serialize(const StepPlan& plan) { return PutFields(plan, kFields); }

absl::StatusOr<StepPlan> ParseStepPlan(std::string_view bytes) {
  StepPlan plan;
  if (!TakeFields(bytes, &plan, kFields)) return absl::DataLossError("a step plan arrived damaged");
  return plan;
}

}  // namespace duo
