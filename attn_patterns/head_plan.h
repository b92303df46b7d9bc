// HeadPlan: which KV heads keep everything (retrieval) and which keep sinks and a recent window (streaming), for one
// model. Made from a pattern by sparsity or threshold, or without one for all-full and all-streaming runs.
//
// Sparsity s, the share of streaming heads: gates are clipped to [0, 1] and the floor((1 - s) N + 0.5) largest of all N
// gates of all layers together are retrieval heads. Equal gates are common (published gates pile up at 1), so ties
// have a rule, which spreads retrieval heads over the layers and is the same everywhere: ascending
// splitmix64(layer * kv_heads + head).
// Threshold t: retrieval where the clipped gate >= t.
// Values and pure functions, any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "attn_patterns/pattern.h"

namespace duo {

struct HeadPlan {
  int layers = 0;
  int kv_heads = 0;                // per layer
  std::vector<uint8_t> retrieval;  // [layers][kv_heads], 1 = retrieval, 0 = streaming
  int sink = 64;                   // streaming head at position p sees j <= p with j < sink or p - j <= recent
  int recent = 256;

  bool is_retrieval(int layer, int head) const { return retrieval[static_cast<size_t>(layer) * kv_heads + head] != 0; }
  int retrieval_heads(int layer) const;
  int streaming_heads(int layer) const { return kv_heads - retrieval_heads(layer); }
  int retrieval_heads() const;  // over all layers
  int streaming_heads() const { return layers * kv_heads - retrieval_heads(); }
  double sparsity() const;  // share of streaming heads
  bool operator==(const HeadPlan&) const = default;
};

// sink and recent are the pattern's; callers override both in the plan. sparsity and threshold outside [0, 1]: an
// error.
absl::StatusOr<HeadPlan> PlanBySparsity(const Pattern& pattern, double sparsity);
absl::StatusOr<HeadPlan> PlanByThreshold(const Pattern& pattern, double threshold);
HeadPlan FullPlan(int layers, int kv_heads);
HeadPlan StreamingPlan(int layers, int kv_heads, int sink = 64, int recent = 256);

}  // namespace duo
