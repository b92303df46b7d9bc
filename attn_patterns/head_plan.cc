#include "attn_patterns/head_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/base/splitmix64.h"

namespace duo {
namespace {

HeadPlan PlanLike(const Pattern& pattern) {
  HeadPlan plan;
  plan.layers = pattern.layers;
  plan.kv_heads = pattern.kv_heads;
  plan.retrieval.assign(pattern.gates.size(), 0);
  plan.sink = pattern.sink;
  plan.recent = pattern.recent;
  return plan;
}

HeadPlan Uniform(int layers, int kv_heads, uint8_t retrieval) {
  HeadPlan plan;
  plan.layers = layers;
  plan.kv_heads = kv_heads;
  plan.retrieval.assign(static_cast<size_t>(layers) * kv_heads, retrieval);
  return plan;
}

double Clipped(double gate) { return std::clamp(gate, 0.0, 1.0); }

}  // namespace

int HeadPlan::retrieval_heads(int layer) const {
  const auto first = retrieval.begin() + static_cast<std::ptrdiff_t>(layer) * kv_heads;
  return static_cast<int>(std::count(first, first + kv_heads, 1));
}

int HeadPlan::retrieval_heads() const { return static_cast<int>(std::count(retrieval.begin(), retrieval.end(), 1)); }

double HeadPlan::sparsity() const {
  return retrieval.empty() ? 0 : static_cast<double>(streaming_heads()) / static_cast<double>(retrieval.size());
}

absl::StatusOr<HeadPlan> PlanBySparsity(const Pattern& pattern, double sparsity) {
  if (!(sparsity >= 0 && sparsity <= 1)) {  // NaN too
    return absl::InvalidArgumentError(absl::StrCat("sparsity must be from 0 to 1, found ", sparsity));
  }
  const size_t n = pattern.gates.size();
  const size_t keep = std::min(n, static_cast<size_t>(std::floor((1 - sparsity) * static_cast<double>(n) + 0.5)));
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});  // index = layer * kv_heads + head
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const double gate_a = Clipped(pattern.gates[a]), gate_b = Clipped(pattern.gates[b]);
    return gate_a != gate_b ? gate_a > gate_b : SplitMix64(a) < SplitMix64(b);
  });
  HeadPlan plan = PlanLike(pattern);
  for (size_t i = 0; i < keep; ++i) plan.retrieval[order[i]] = 1;
  return plan;
}

absl::StatusOr<HeadPlan> PlanByThreshold(const Pattern& pattern, double threshold) {
  if (!(threshold >= 0 && threshold <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("threshold must be from 0 to 1, found ", threshold));
  }
  HeadPlan plan = PlanLike(pattern);
  for (size_t i = 0; i < pattern.gates.size(); ++i) plan.retrieval[i] = Clipped(pattern.gates[i]) >= threshold;
  return plan;
}

HeadPlan FullPlan(int layers, int kv_heads) { return Uniform(layers, kv_heads, 1); }

HeadPlan StreamingPlan(int layers, int kv_heads, int sink, int recent) {
  HeadPlan plan = Uniform(layers, kv_heads, 0);
  plan.sink = sink;
  plan.recent = recent;
  return plan;
}

}  // namespace duo
