// Dense attention through cuDNN's backend API. The library is loaded at run time: a node without cuDNN, or with a
// version known to be wrong, uses duo's own flash kernel instead. Plans are static, cached by shape in the Device's
// CUDA state; the first costs about a second, each further one some 80 ms. Not thread-safe, like the Device.
#pragma once

#include "kernels/cuda/flash.h"

namespace duo::cuda {

// A plan's shape. Row and key capacities come from a few buckets, so that few plans serve all lengths.
struct CudnnShape {
  int heads = 0;  // KV heads
  int group = 0;
  int head_dim = 0;
  int64_t row_capacity = 0;
  int64_t key_capacity = 0;
  int64_t key_head_stride = 0;  // tokens from one KV head's keys to the next's; 0 with one head
  bool causal = false;          // row i sees keys up to i
  bool whole = false;           // rows and keys fill their capacities; otherwise lengths are read on the device
  auto operator<=>(const CudnnShape&) const = default;
};

// Computes args when cuDNN can; false when it cannot, nothing done. q and out [query head][row_capacity][head_dim], lse
// [query head][row_capacity], k and v [KV head][key_head_stride][head_dim]; buffers reach to the capacities, and V is
// finite up to the next multiple of 256 keys. args.window is 0.
bool CudnnAttend(Device& device, const CudnnShape& shape, const DenseAttention& args);

// Is there a usable cuDNN? Loads it when first asked.
bool CudnnUsable(Device& device);

}  // namespace duo::cuda
