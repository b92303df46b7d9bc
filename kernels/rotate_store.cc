#include "kernels/rotate_store.h"

#include <algorithm>

namespace duo {
namespace {

[[maybe_unused]] bool InOneLaunch(const Device& device, const StepRows& rows, const std::vector<PagedKv>& paged) {
  const auto alike = [&](const PagedKv& kv) { return kv.page.format == paged[0].page.format; };
  return device.is_cuda() && !device.measuring() && !rows.qkv.empty() && !paged.empty() &&
         paged.size() <= cuda::kMostStoredGroups && std::all_of(paged.begin(), paged.end(), alike);
}

}  // namespace

void RotateAndStore(Device& device, const StepRows& rows, View cos_sin, const QkNorms& norms, const float* key_shift,
                    const std::vector<PagedKv>& paged) {
#ifdef DUO_HAVE_CUDA
  if (InOneLaunch(device, rows, paged)) {
    DUO_CHECK(rows.qkv.dtype == DType::kBF16 && cos_sin.dtype == DType::kF32);
    DUO_CHECK_EQ(rows.qkv.cols, rows.shape.qkv_cols());
    DUO_CHECK_EQ(rows.batch.num_rows, rows.qkv.rows);
    DUO_CHECK_EQ(cos_sin.cols, rows.shape.head_dim);
    DUO_CHECK_GE(cos_sin.rows, rows.qkv.rows);
    for (const PagedKv& kv : paged) {
      DUO_CHECK_EQ(kv.page.head_dim, rows.shape.head_dim);
      DUO_CHECK_LE(kv.first_head + kv.num_heads, rows.shape.kv_heads);
    }
    return cuda::RotateAndStore(device, rows, cos_sin, norms, key_shift, paged);
  }
#endif
  RotateQk(device, rows.qkv, rows.shape, cos_sin, norms, key_shift);
  for (const PagedKv& kv : paged) StoreKv(device, rows, kv);
}

}  // namespace duo
