// What places the heads of Llama-3-8B's shape, for tests that plan.
#pragma once

#include "parallel/partition.h"

namespace duo {

inline PartitionRequest Llama3Request(int64_t kv_token_bytes) {
  PartitionRequest request;
  request.shape = {.layers = 32,
                   .hidden = 4096,
                   .intermediate = 14336,
                   .heads = 32,
                   .kv_heads = 8,
                   .head_dim = 128,
                   .vocab = 128256};
  request.kv_token_bytes = kv_token_bytes;
  return request;
}

}  // namespace duo
