#include "kernels/attention_mass.h"

#include "kernels/backend.h"

namespace duo {
namespace {

void CheckMassRow(const MassRow& row, const PagedKv& kv) {
  DUO_CHECK_GE(row.group, 1);
  DUO_CHECK_GE(row.head, 0);
  DUO_CHECK_LT(row.head, kv.num_heads);
  DUO_CHECK_LE(kv.page.head_dim, 256);
}

}  // namespace

void PageMass(Device& device, float* out, const MassRow& row, const PagedKv& kv, int64_t pages) {
  CheckMassRow(row, kv);
  if (pages > 0) BackendOf(device).PageMass(device, out, row, kv, pages);
}

void KeyScores(Device& device, float* out, const MassRow& row, const PagedKv& kv, const int32_t* pages, int count) {
  CheckMassRow(row, kv);
  if (count > 0) BackendOf(device).KeyScores(device, out, row, kv, pages, count);
}

}  // namespace duo
