#include "runtime/engine/choose_heads.h"

#include "absl/strings/str_format.h"
#include "runtime/weights/fingerprint.h"

namespace duo {
namespace {

// The pattern's plan. With `auto` and nothing that asks for a pattern a model without one runs with full attention.
absl::StatusOr<HeadPlan> DuoPlan(EngineOptions& options, const ModelConfig& config, std::vector<std::string>& notes) {
  const absl::StatusOr<FoundPattern> found = PatternOf(options, config);
  const bool asked = !options.pattern_dir.empty() || options.sparsity.has_value() || options.threshold.has_value();
  if (options.attention == AttentionMode::kAuto && !asked && absl::IsNotFound(found.status())) {
    options.attention = AttentionMode::kFull;
    const char* how = config.attention_sinks ? " --quick" : "";  // whose gates are not trained
    const char* sooner = config.attention_sinks ? "" : ", much sooner and a little worse with --quick";
    notes.push_back(absl::StrFormat(
        "full attention: no pattern says which heads of this model need it (make one: duo identify%s --model %s --out "
        "%s/attn_pattern%s; or give one with --pattern DIR)",
        how, options.model_dir, options.model_dir, sooner));
    return FullPlan(config.layers, config.kv_heads);
  }
  if (!found.ok()) return found.status();
  options.attention = AttentionMode::kDuo;
  return options.threshold.has_value() ? PlanByThreshold(found->pattern, *options.threshold)
                                       : PlanBySparsity(found->pattern, options.sparsity.value_or(0.5));
}

}  // namespace

absl::StatusOr<FoundPattern> PatternOf(const EngineOptions& options, const ModelConfig& config) {
  if (!options.pattern_dir.empty()) return OpenPattern(options.pattern_dir, config.layers, config.kv_heads);
  return FindPattern(IdentityOf(options.model_dir, config), config.layers, config.kv_heads,
                     PatternRoots(options.program));
}

absl::StatusOr<HeadPlan> ChooseHeads(EngineOptions& options, const ModelConfig& config,
                                     std::vector<std::string>& notes) {
  absl::StatusOr<HeadPlan> plan = options.attention == AttentionMode::kFull ? FullPlan(config.layers, config.kv_heads)
                                  : options.attention == AttentionMode::kStreaming
                                      ? StreamingPlan(config.layers, config.kv_heads)
                                      : DuoPlan(options, config, notes);
  if (!plan.ok()) return plan;
  plan->sink = options.sink.value_or(plan->sink);
  plan->recent = options.recent.value_or(plan->recent);
  if (plan->sink < 0 || plan->recent < 1 || plan->sink > 1 << 20 || plan->recent > 1 << 20) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--sink %d and --recent %d must be at least 0 and 1, and at most 1,048,576", plan->sink, plan->recent));
  }
  return plan;
}

void ShareHeads(Communicator& comm, HeadPlan* plan) {
  if (comm.size() == 1) return;
  int32_t sizes[4] = {plan->layers, plan->kv_heads, plan->sink, plan->recent};
  comm.Broadcast(sizes, sizeof sizes, 0);
  plan->layers = sizes[0];
  plan->kv_heads = sizes[1];
  plan->sink = sizes[2];
  plan->recent = sizes[3];
  plan->retrieval.resize(int64_t{sizes[0]} * sizes[1]);
  comm.Broadcast(plan->retrieval.data(), plan->retrieval.size(), 0);
}

absl::StatusOr<std::vector<ProvenanceHead>> ChooseProvenance(const EngineOptions& options, const ModelConfig& config,
                                                             const HeadPlan& heads) {
  if (heads.retrieval_heads() == 0) {
    return absl::FailedPreconditionError(
        "where answers looked is read from heads that keep everything, and none does here (--attention streaming)");
  }
  std::vector<ProvenanceHead> named = options.provenance_heads;
  if (named.empty() && (!options.model_dir.empty() || !options.pattern_dir.empty())) {
    const absl::StatusOr<FoundPattern> found = PatternOf(options, config);
    if (found.ok()) named = found->pattern.provenance;
  }
  std::vector<ProvenanceHead> provenance;
  const int group = config.heads / config.kv_heads;
  for (const ProvenanceHead& h : named) {
    if (h.layer < 0 || h.layer >= config.layers || h.head < 0 || h.head >= config.heads || !(h.weight > 0)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "provenance_heads: expected layers below %d, query heads below %d and weights above 0, found [%d, %d, %g]",
          config.layers, config.heads, h.layer, h.head, h.weight));
    }
    if (heads.is_retrieval(h.layer, h.head / group)) provenance.push_back(h);
  }
  if (provenance.empty()) {
    for (int layer = 0; layer < config.layers; ++layer) {
      for (int head = 0; head < config.heads; ++head) {
        if (heads.is_retrieval(layer, head / group)) provenance.push_back({layer, head, 1.0});
      }
    }
  }
  double total = 0;
  for (const ProvenanceHead& h : provenance) total += h.weight;
  for (ProvenanceHead& h : provenance) h.weight /= total;
  return provenance;
}

void ShareProvenance(Communicator& comm, std::vector<ProvenanceHead>* heads) {
  if (comm.size() == 1) return;
  auto count = static_cast<int64_t>(heads->size());
  comm.Broadcast(&count, sizeof count, 0);
  heads->resize(count);
  if (count > 0) comm.Broadcast(heads->data(), sizeof(ProvenanceHead) * count, 0);
}

}  // namespace duo
