// Perplexity of a text under an engine's attention and formats: exp of the mean negative log-likelihood of its tokens,
// window by window. Each window is read on its own, without a view of the one before it, and all but its first token
// are predicted. One thread, the engine's; on rank 0.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/thread_pool.h"
#include "runtime/engine/engine.h"

namespace duo {

// Consecutive windows of at most `window` tokens, `bos` at the head of each included. Those with nothing to predict are
// left out.
std::vector<std::vector<int32_t>> PerplexityWindows(const std::vector<int32_t>& tokens, std::optional<int32_t> bos,
                                                    int window);

struct Perplexity {
  double mean = 0;        // negative log-likelihood, nats a token
  int64_t predicted = 0;  // tokens
  // Of windows that were read sparsely: blocks that were read densely, too, and the share of attention that lists kept.
  int64_t audits = 0;
  double mass = 1;
  double perplexity() const;
};

// The engine must have been made with append_logits and room for a window. progress: tokens predicted, in all.
absl::StatusOr<Perplexity> MeasurePerplexity(Engine& engine, const std::vector<std::vector<int32_t>>& windows,
                                             ThreadPool& pool, const std::function<void(int64_t, int64_t)>& progress);

}  // namespace duo
