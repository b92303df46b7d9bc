// A config's sizes as the partition and the shards take them. Pure, any thread.
#pragma once

#include "parallel/cost_model.h"
#include "runtime/weights/config.h"

namespace duo {

inline ModelShape ShapeOf(const ModelConfig& config) {
  return {.layers = config.layers,
          .hidden = static_cast<int>(config.hidden),
          .intermediate = static_cast<int>(config.intermediate),
          .heads = config.heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .vocab = static_cast<int>(config.vocab),
          .experts_chosen = config.experts.chosen,
          .expert_intermediate = static_cast<int>(config.experts.intermediate),
          .shared_intermediate = static_cast<int>(config.experts.shared_intermediate),
          .experts = config.experts.count};
}

}  // namespace duo
