#include "kernels/page_lists.h"

#include "kernels/backend.h"

namespace duo {
namespace {

// Whole blocks of one sequence, and pages that lie here as a whole.
void CheckBlocks(const Device& device, const StepRows& rows, const PagedKv& kv) {
  DUO_CHECK(rows.qkv.dtype == ActivationType(device));
  DUO_CHECK_EQ(rows.qkv.cols, rows.shape.qkv_cols());
  DUO_CHECK_EQ(kv.page.head_dim, rows.shape.head_dim);
  DUO_CHECK_LE(kv.first_head + kv.num_heads, rows.shape.kv_heads);
  DUO_CHECK_EQ(rows.batch.num_seqs, 1);
  DUO_CHECK(rows.batch.host_spans != nullptr);
  const SeqSpan& span = rows.batch.host_spans[0];
  DUO_CHECK_EQ(span.first_row, 0);
  DUO_CHECK_EQ(span.history % kBlockTokens, 0);
  DUO_CHECK_EQ(span.num_rows % kBlockTokens, 0);
  DUO_CHECK_EQ(span.num_rows, rows.batch.num_rows);
  DUO_CHECK(!kv.split);
  DUO_CHECK_EQ(kv.window, 0);
}

}  // namespace

absl::Status CheckPageLists(const Device& device, int head_dim, int group, KvFormat format) {
  return BackendOf(device).CheckPageLists(device, head_dim, group, format);
}

size_t PooledKeysBytes(const Device& device, const PagedKv& kv, int64_t max_tokens) {
  return BackendOf(device).PooledKeysBytes(device, kv, max_tokens);
}

void PoolKeys(Device& device, PooledKeys* to, const StepRows& rows, const PagedKv& kv, Arena& arena) {
  CheckBlocks(device, rows, kv);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).PoolKeys(device, to, rows, kv, arena);
}

void TakeLists(PageLists* to, const StepRows& rows, const PagedKv& kv, const ListRule& rule, const int32_t* densities,
               Arena& arena) {
  const SeqSpan& span = rows.batch.host_spans[0];
  to->first_block = span.history / kBlockTokens;
  to->blocks = span.num_rows / kBlockTokens;
  to->heads = kv.num_heads;
  const int32_t densest = *std::max_element(densities, densities + kv.num_heads);
  to->stride = rule.Length(densest, to->first_block + to->blocks - 1);
  const int64_t lists = int64_t{to->heads} * to->blocks;
  to->lengths = static_cast<int32_t*>(arena.Take(sizeof(int32_t) * lists));
  to->pages = static_cast<int32_t*>(arena.Take(sizeof(int32_t) * lists * to->stride));
}

size_t SelectPagesBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens) {
  return BackendOf(device).SelectPagesBytes(device, rows, group, kv, max_tokens);
}

void SelectPages(Device& device, PageLists* to, const StepRows& rows, const PagedKv& kv, const PooledKeys& pooled,
                 const ListRule& rule, const int32_t* densities, Arena& arena) {
  CheckBlocks(device, rows, kv);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).SelectPages(device, to, rows, kv, pooled, rule, densities, arena);
}

size_t AttendPageListsScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens) {
  return BackendOf(device).AttendPageListsScratchBytes(device, rows, group, kv, max_tokens);
}

void AttendPageLists(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, const PageLists& lists,
                     Arena& scratch) {
  CheckBlocks(device, rows, kv);
  DUO_CHECK(to.out.dtype == ActivationType(device));
  DUO_CHECK_EQ(to.out.cols, rows.shape.q_cols());
  DUO_CHECK_GE(to.out.rows, rows.batch.num_rows);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).AttendPageLists(device, to, rows, kv, lists, scratch);
}

}  // namespace duo
