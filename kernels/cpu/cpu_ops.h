// The CPU backend: the ops of kernels/ops.h and kernels/attention.h on host memory, with the same contracts and the
// same signatures. Only the dispatch files (kernels/ops.cc, sampling.cc, attention.cc) call these; shapes are checked
// there. Synchronous. Work is cut by shapes alone, never by the number of threads, so neither are the results.
// Scratch is given back before an op returns.
#pragma once

#include "kernels/attention.h"
#include "kernels/ops.h"
#include "kernels/random_fill.h"

namespace duo::cpu {

size_t LinearScratchBytes(const Device& device, int64_t rows, const Weight& weight);
void Linear(Device& device, View out, View x, const Weight& weight, Arena& scratch);
void Embed(Device& device, View residual, const int32_t* ids, const Weight& table, int32_t first_id);
void AddRmsNorm(Device& device, View out, View residual, View add, const float* weight, float eps);
void SwiGlu(Device& device, View out, View gate_up);
void GatherRows(Device& device, View out, View in, const int32_t* rows, int count);

void SampleShard(Device& device, ShardSample* out, View logits, int32_t first_id, const SampleParams* params);
size_t TopLogitsScratchBytes(const Device& device, int64_t rows, int64_t shard, int count);
void TopLogits(Device& device, float* values, int32_t* ids, View logits, int32_t first_id, int count, Arena& scratch);

absl::Status CheckAttention(const Device& device, int head_dim, int group, KvFormat format);
void RopeAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies, double factor);
void RotateQk(Device& device, View qkv, const HeadShape& shape, View cos_sin, const float* q_norm, const float* k_norm,
              float eps);
void StoreKv(Device& device, View qkv, const HeadShape& shape, const SeqBatch& batch, const PagedKv& kv);
void RoundToRing(Device& device, View qkv, const HeadShape& shape, const RingKv& kv);
void StoreRings(Device& device, View qkv, const HeadShape& shape, const SeqBatch& batch, const RingKv& kv);

size_t DecodeScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv, int64_t max_tokens);
void AttendPages(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                 const PagedKv& kv, Arena& scratch);
size_t PrefillScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens);
void AttendPrefill(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                   const PagedKv& kv, bool own_square, Arena& scratch);
size_t StreamingScratchBytes(const Device& device, int rows, int group, const RingKv& kv);
void AttendStreaming(Device& device, View out, View qkv, const HeadShape& shape, const SeqBatch& batch,
                     const RingKv& kv, Arena& scratch);
void ScaleSplitHeads(Device& device, View out, int head_dim, int heads, const float* all_lse, const int32_t* ids,
                     int ranks, int entries, int rank);

void CopyPage(Device& device, const PagedKv& kv, int32_t from_id, int32_t to_id);

void FillElements(Device& device, const FillRun& run, uint64_t seed);

}  // namespace duo::cpu
