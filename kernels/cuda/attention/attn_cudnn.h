// Dense attention through cuDNN's backend API. The library is loaded at run time: a node without cuDNN, or with a
// version known to be wrong, uses duo's own flash kernel instead. Plans are static, cached by shape in the Device's
// CUDA state; the first costs about a second, each further one some 80 ms, so a thread builds them while weights are
// loaded (StartPrefillPlans, kernels/attention.h). For the thread that drives the Device.
#pragma once

#include "kernels/cuda/attention/flash.h"

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
  bool whole = false;           // keys fill their capacity; otherwise lengths are read on the device
  auto operator<=>(const CudnnShape&) const = default;  // NOLINT(modernize-use-nullptr): the default's own 0
};

// Calls over the same number of keys, for different heads; they may run beside each other, and what the device's stream
// is given after the end of this object waits for them.
class CudnnCalls {
 public:
  // rows and keys count where shapes are not whole.
  CudnnCalls(Device& device, int rows, int keys, bool whole);
  ~CudnnCalls();
  CudnnCalls(const CudnnCalls&) = delete;
  CudnnCalls& operator=(const CudnnCalls&) = delete;
  // Computes args when cuDNN can; false when it cannot, nothing done. q and out [query head][row_capacity][head_dim],
  // lse [query head][row_capacity], k and v [KV head][key_head_stride][head_dim]; buffers reach to the capacities. V is
  // finite up to the capacity of a causal shape, up to the next multiple of 256 keys of one that is not whole.
  // args.window is 0.
  bool Attend(const CudnnShape& shape, const DenseAttention& args);

 private:
  Device& device_;
  int calls_ = 0;
};

// Is there a usable cuDNN? Loads it when first asked.
bool CudnnUsable(Device& device);

}  // namespace duo::cuda
