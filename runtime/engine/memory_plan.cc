#include "runtime/engine/memory_plan.h"

#include "absl/strings/str_format.h"

namespace duo {
namespace {

double GiB(int64_t bytes) { return static_cast<double>(bytes) / 0x1p30; }

std::string Grouped(int64_t n) {
  std::string digits = std::to_string(n);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, ",");
  return digits;
}

// The words for so many bytes, which are a number of GiB in them; nothing for none.
std::string WhereAny(const absl::FormatSpec<double>& words, int64_t bytes) {
  return bytes > 0 ? absl::StrFormat(words, GiB(bytes)) : "";
}

}  // namespace

std::string Describe(const MemoryPlan& plan) {
  const std::string drafts = WhereAny(" + other ranks' weights %.2f", plan.peer_shards) +
                             WhereAny(" + draft weights %.2f", plan.draft_weights) +
                             WhereAny(" + draft model %.2f", plan.draft_model) +
                             WhereAny(" + text index %.2f", plan.index);
  return absl::StrFormat("weights %.2f + KV %.2f (%s tokens) + rings %.2f + workspace %.2f%s = %.2f of %.2f GiB free",
                         GiB(plan.weights), GiB(plan.kv_pages), Grouped(plan.kv_tokens), GiB(plan.rings + plan.tables),
                         GiB(plan.workspace), drafts, GiB(plan.total()), GiB(plan.device_free));
}

absl::Status CheckFits(const MemoryPlan& plan) {
  if (plan.total() + plan.reserve <= plan.device_free) return absl::OkStatus();
  const std::string drafts =
      WhereAny("other ranks' weights %.2f (--prefill-split heads needs none), ", plan.peer_shards) +
      WhereAny("draft weights %.2f, ", plan.draft_weights) + WhereAny("draft model %.2f, ", plan.draft_model);
  return absl::ResourceExhaustedError(absl::StrFormat(
      "not enough memory: %.2f GiB wanted (weights %.2f, KV of %s tokens %.2f, rings %.2f, workspace "
      "%.2f, %stext index %.2f, reserve %.2f), %.2f GiB free; use fewer tokens, a smaller --kv or --weights, or more "
      "GPUs",
      GiB(plan.total() + plan.reserve), GiB(plan.weights), Grouped(plan.kv_tokens), GiB(plan.kv_pages),
      GiB(plan.rings + plan.tables), GiB(plan.workspace), drafts, GiB(plan.index), GiB(plan.reserve),
      GiB(plan.device_free)));
}

}  // namespace duo
