#include "kernels/attention_mass.h"

#include <bit>

#include "kernels/backend.h"

namespace duo {
namespace {

void CheckHeads(std::span<const MassHead> heads) {
  for (const auto& [row, kv] : heads) {
    DUO_CHECK_GE(row.group, 1);
    DUO_CHECK_EQ(row.group, heads[0].row.group);
    DUO_CHECK_GE(row.head, 0);
    DUO_CHECK_LT(row.head, kv.num_heads);
    DUO_CHECK_LE(kv.page.head_dim, 256);
    DUO_CHECK_EQ(kv.page.head_dim, heads[0].kv.page.head_dim);
  }
}

}  // namespace

void PageMass(Device& device, float* out, std::span<const MassHead> heads, int64_t pages) {
  CheckHeads(heads);
  if (pages > 0 && !heads.empty()) BackendOf(device).PageMass(device, out, heads, pages);
}

void KeyScores(Device& device, float* out, std::span<const MassHead> heads, const int32_t* pages, int count) {
  CheckHeads(heads);
  if (count > 0 && !heads.empty()) BackendOf(device).KeyScores(device, out, heads, pages, count);
}

int MassParts(const Device& device, int group, const PagedKv& kv) {
  return kv.num_heads > 64 ? 0 : BackendOf(device).MassParts(device, group, kv);
}

void AttendPagesWithMass(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv,
                         const MassOut& mass, Arena& scratch) {
  DUO_CHECK(rows.qkv.dtype == ActivationType(device));
  DUO_CHECK_EQ(rows.qkv.cols, rows.shape.qkv_cols());
  DUO_CHECK_EQ(kv.page.head_dim, rows.shape.head_dim);
  DUO_CHECK_LE(kv.first_head + kv.num_heads, rows.shape.kv_heads);
  DUO_CHECK_EQ(rows.batch.num_rows, 1);
  DUO_CHECK_EQ(rows.batch.num_seqs, 1);
  DUO_CHECK(rows.batch.host_spans != nullptr);
  DUO_CHECK_LE(std::bit_width(mass.heads), kv.num_heads);
  if (!device.measuring()) DUO_CHECK_EQ(mass.pages, rows.batch.host_spans[0].history / kPageTokens + 1);
  BackendOf(device).AttendPagesWithMass(device, to, rows, kv, mass, scratch);
}

void LogSums(Device& device, float* out, const LogMasses& of) {
  if (of.rows > 0) BackendOf(device).LogSums(device, out, of);
}

void SumShares(Device& device, float* out, const LogMasses& of, const float* lse, const float* weights) {
  if (of.count > 0) BackendOf(device).SumShares(device, out, of, lse, weights);
}

}  // namespace duo
