#include "kernels/backend.h"

namespace duo {

void SampleShard(Device& device, ShardSample* out, View logits, int32_t first_id, const SampleParams* params) {
  DUO_CHECK(logits.dtype == DType::kF32);
  DUO_CHECK_GT(logits.cols, 0);
  if (logits.rows == 0) return;
  BackendOf(device).SampleShard(device, out, logits, first_id, params);
}

void EditLogits(Device& device, View logits, int32_t first_id, const LogitEdit* edits, int count,
                const uint32_t* mask) {
  DUO_CHECK(logits.dtype == DType::kF32);
  DUO_CHECK_EQ(logits.rows, 1);
  BackendOf(device).EditLogits(device, logits, first_id, edits, count, mask);
}

size_t TopLogitsScratchBytes(const Device& device, int64_t rows, int64_t shard, int count) {
  return BackendOf(device).TopLogitsScratchBytes(device, rows, shard, count);
}

void TopLogits(Device& device, const LargestLogits& out, View logits, int32_t first_id, Arena& scratch) {
  DUO_CHECK(logits.dtype == DType::kF32);
  DUO_CHECK_GT(out.count, 0);
  DUO_CHECK_LE(out.count, logits.cols);
  if (logits.rows == 0) return;
  BackendOf(device).TopLogits(device, out, logits, first_id, scratch);
}

}  // namespace duo
