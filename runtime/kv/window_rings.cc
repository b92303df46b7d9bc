#include "runtime/kv/window_rings.h"

#include <algorithm>

#include "runtime/weights/families.h"

namespace duo {

void KeepWindowsInRings(const ModelConfig& config, HeadPlan* plan) {
  if (config.sliding_window == 0 || Spec(config.family).window != WindowRule::kAlternate) return;
  const int64_t before = config.sliding_window - 1;  // tokens that a row sees besides its own
  if (plan->streaming_heads() == 0 && before <= 1 << 20) {
    plan->sink = 0;
    plan->recent = static_cast<int>(std::max<int64_t>(before, 1));
  }
  if (plan->recent < before) return;
  for (int layer = 0; layer < config.layers; ++layer) {
    if (config.window_layers[layer] == 0) continue;
    std::fill_n(plan->retrieval.begin() + int64_t{layer} * plan->kv_heads, plan->kv_heads, uint8_t{0});
  }
}

}  // namespace duo
