#include "kernels/attention.h"

#include "kernels/backend.h"

namespace duo {
namespace {

void CheckQkv(const Device& device, const View& qkv, const HeadShape& shape) {
  DUO_CHECK(qkv.dtype == ActivationType(device));
  DUO_CHECK_EQ(qkv.cols, shape.qkv_cols());
}

// `kv` is PagedKv or RingKv; their head counts mean the same.
template <typename Kv>
void CheckHeads(const HeadShape& shape, const Kv& kv, int head_dim) {
  DUO_CHECK_EQ(head_dim, shape.head_dim);
  DUO_CHECK_LE(kv.first_head + kv.num_heads, shape.kv_heads);
}

void CheckAttend(const Device& device, const View& out, const StepRows& rows) {
  CheckQkv(device, rows.qkv, rows.shape);
  DUO_CHECK(out.dtype == ActivationType(device));
  DUO_CHECK_EQ(out.cols, rows.shape.q_cols());
  DUO_CHECK_GE(out.rows, rows.batch.num_rows);
  DUO_CHECK_GE(rows.qkv.rows, rows.batch.num_rows);
  const View& q = rows.part.q;
  if (q.data == nullptr) return;
  DUO_CHECK(q.dtype == rows.qkv.dtype);
  DUO_CHECK_EQ(q.cols, rows.shape.q_cols());
  DUO_CHECK_GE(q.rows, rows.batch.num_rows);
}

void CheckPaged(const PagedKv& kv) {
  DUO_CHECK_GE(kv.first_slot, 0);
  DUO_CHECK_LE(kv.first_slot + kv.num_slots, kv.slots);
}

}  // namespace

absl::Status CheckAttention(const Device& device, int head_dim, int group, KvFormat format) {
  return BackendOf(device).CheckAttention(device, head_dim, group, format);
}

void RopeAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies, double factor) {
  DUO_CHECK(cos_sin.dtype == DType::kF32);
  DUO_CHECK_EQ(cos_sin.cols % 2, 0);
  if (cos_sin.empty()) return;
  BackendOf(device).RopeAngles(device, cos_sin, positions, frequencies, factor);
}

void RotateQk(Device& device, View qkv, const HeadShape& shape, View cos_sin, const QkNorms& norms,
              const float* key_shift) {
  CheckQkv(device, qkv, shape);
  DUO_CHECK(cos_sin.dtype == DType::kF32);
  DUO_CHECK_EQ(cos_sin.cols, shape.head_dim);
  DUO_CHECK_GE(cos_sin.rows, qkv.rows);
  if (qkv.empty()) return;
  BackendOf(device).RotateQk(device, qkv, shape, cos_sin, norms, key_shift);
}

void ChunkAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies, double factor,
                 const DualChunk& chunks) {
  DUO_CHECK(cos_sin.dtype == DType::kF32);
  DUO_CHECK_EQ(cos_sin.cols % (2 * (kChunkKinds + 1)), 0);
  DUO_CHECK(chunks.length > 0 && chunks.size >= chunks.length);
  if (cos_sin.empty()) return;
  BackendOf(device).ChunkAngles(device, cos_sin, positions, frequencies, factor, chunks);
}

void RotateQkByChunks(Device& device, View qkv, const ChunkQueries& queries, const HeadShape& shape, View cos_sin,
                      const QkNorms& norms) {
  CheckQkv(device, qkv, shape);
  DUO_CHECK(cos_sin.dtype == DType::kF32);
  DUO_CHECK_EQ(cos_sin.cols, (kChunkKinds + 1) * shape.head_dim);
  DUO_CHECK_GE(cos_sin.rows, qkv.rows);
  for (const View& q : {queries.previous, queries.earlier}) {
    DUO_CHECK(q.dtype == qkv.dtype);
    DUO_CHECK_EQ(q.cols, shape.q_cols());
    DUO_CHECK_GE(q.rows, qkv.rows);
  }
  if (qkv.empty()) return;
  BackendOf(device).RotateQkByChunks(device, qkv, queries, shape, cos_sin, norms);
}

void StoreKv(Device& device, const StepRows& rows, const PagedKv& kv) {
  CheckQkv(device, rows.qkv, rows.shape);
  CheckHeads(rows.shape, kv, kv.page.head_dim);
  CheckPaged(kv);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).StoreKv(device, rows, kv);
}

void RoundToRing(Device& device, View qkv, const HeadShape& shape, const RingKv& kv) {
  CheckQkv(device, qkv, shape);
  CheckHeads(shape, kv, kv.head_dim);
  DUO_CHECK(kv.format == KvFormat::kF32 || kv.format == KvFormat::kBF16);
  if (qkv.rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).RoundToRing(device, qkv, shape, kv);
}

void StoreRings(Device& device, const StepRows& rows, const RingKv& kv) {
  CheckQkv(device, rows.qkv, rows.shape);
  CheckHeads(rows.shape, kv, kv.head_dim);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).StoreRings(device, rows, kv);
}

size_t PagesPlanBytes(const Device& device, int max_rows_total, const PagedKv& kv) {
  return BackendOf(device).PagesPlanBytes(device, max_rows_total, kv);
}

void PlanPages(Device& device, SeqBatch& batch, int group, const PagedKv& kv, Arena& arena) {
  CheckPaged(kv);
  if (batch.num_rows == 0) return;
  BackendOf(device).PlanPages(device, batch, group, kv, arena);
}

size_t DecodeScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv, int64_t max_tokens,
                          bool by_chunks) {
  return BackendOf(device).DecodeScratchBytes(device, max_rows_total, group, kv, max_tokens, by_chunks);
}

void AttendPages(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, Arena& scratch) {
  CheckAttend(device, to.out, rows);
  CheckHeads(rows.shape, kv, kv.page.head_dim);
  CheckPaged(kv);
  DUO_CHECK_LE(rows.batch.max_rows, kMaxDecodeRows);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).AttendPages(device, to, rows, kv, scratch);
}

bool StreamsBesidePages(const Device& device, const StepRows& rows, const PagedKv& kv, const RingKv& ring) {
  CheckHeads(rows.shape, kv, kv.page.head_dim);
  CheckHeads(rows.shape, ring, ring.head_dim);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0 || ring.num_heads == 0 || !rows.part.all()) return false;
  return BackendOf(device).StreamsBesidePages(device, rows, kv, ring);
}

size_t PrefillScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens,
                           bool by_chunks) {
  return BackendOf(device).PrefillScratchBytes(device, rows, group, kv, max_tokens, by_chunks);
}

void StartPrefillPlans(Device& device, int rows, int heads, int group, int head_dim, int64_t max_tokens) {
  BackendOf(device).StartPrefillPlans(device, rows, heads, group, head_dim, max_tokens);
}

void WaitForPrefillPlans(Device& device) { BackendOf(device).WaitForPrefillPlans(device); }

void AttendPrefill(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, bool own_square,
                   Arena& scratch) {
  CheckAttend(device, to.out, rows);
  CheckHeads(rows.shape, kv, kv.page.head_dim);
  CheckPaged(kv);
  DUO_CHECK_EQ(rows.batch.num_seqs, 1);
  DUO_CHECK(rows.batch.host_spans != nullptr);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).AttendPrefill(device, to, rows, kv, own_square, scratch);
}

size_t StreamingScratchBytes(const Device& device, int rows, int group, const RingKv& kv) {
  return BackendOf(device).StreamingScratchBytes(device, rows, group, kv);
}

void AttendStreaming(Device& device, const Partial& to, const StepRows& rows, const RingKv& kv, Arena& scratch) {
  CheckAttend(device, to.out, rows);
  CheckHeads(rows.shape, kv, kv.head_dim);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).AttendStreaming(device, to, rows, kv, scratch);
}

void MergePartial(Device& device, const Partial& to, const Partial& part, int heads) {
  DUO_CHECK(to.out.dtype == ActivationType(device) && part.out.dtype == to.out.dtype);
  DUO_CHECK_EQ(to.out.cols, part.out.cols);
  DUO_CHECK_LE(to.out.rows, part.out.rows);
  DUO_CHECK(to.lse != nullptr && part.lse != nullptr);
  if (to.out.empty() || heads == 0) return;
  DUO_CHECK_EQ(to.out.cols % heads, 0);
  BackendOf(device).MergePartial(device, to, part, heads);
}

void ScaleSplitHeads(Device& device, View out, int head_dim, int heads, const GatheredLse& all) {
  DUO_CHECK(out.dtype == ActivationType(device));
  DUO_CHECK_LE(heads * head_dim, out.cols);
  DUO_CHECK_LE(heads, all.entries);
  DUO_CHECK_LT(all.rank, all.ranks);
  if (out.empty() || heads == 0) return;
  BackendOf(device).ScaleSplitHeads(device, out, head_dim, heads, all);
}

void CopyPage(Device& device, const PagedKv& kv, int32_t from_id, int32_t to_id) {
  BackendOf(device).CopyPage(device, kv, from_id, to_id);
}

}  // namespace duo
