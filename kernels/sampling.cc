#include "kernels/backend.h"

namespace duo {

void SampleShard(Device& device, ShardSample* out, View logits, int32_t first_id, const SampleParams* params) {
  DUO_CHECK(logits.dtype == DType::kF32);
  DUO_CHECK_GT(logits.cols, 0);
  if (logits.rows == 0) return;
  if constexpr (kHaveCuda) {
    if (device.is_cuda()) return cuda::SampleShard(device, out, logits, first_id, params);
  }
  cpu::SampleShard(device, out, logits, first_id, params);
}

size_t TopLogitsScratchBytes(const Device& device, int64_t rows, int64_t shard, int count) {
  if constexpr (kHaveCuda) {
    if (device.is_cuda()) return cuda::TopLogitsScratchBytes(device, rows, shard, count);
  }
  return cpu::TopLogitsScratchBytes(device, rows, shard, count);
}

void TopLogits(Device& device, float* values, int32_t* ids, View logits, int32_t first_id, int count, Arena& scratch) {
  DUO_CHECK(logits.dtype == DType::kF32);
  DUO_CHECK_GT(count, 0);
  DUO_CHECK_LE(count, logits.cols);
  if (logits.rows == 0) return;
  if constexpr (kHaveCuda) {
    if (device.is_cuda()) return cuda::TopLogits(device, values, ids, logits, first_id, count, scratch);
  }
  cpu::TopLogits(device, values, ids, logits, first_id, count, scratch);
}

}  // namespace duo
