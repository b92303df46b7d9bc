#include "kernels/norm_route.h"

namespace duo {

bool CanNormAndRoute([[maybe_unused]] const Device& device, [[maybe_unused]] const NormedRows& rows,
                     [[maybe_unused]] const Weight& router) {
#ifdef DUO_HAVE_CUDA
  if (device.is_cuda()) return cuda::CanNormAndRoute(device, rows, router);
#endif
  return false;
}

void NormAndRoute(Device& device, const Routing& out, View logits, const NormedRows& rows, const Weight& router,
                  int experts, [[maybe_unused]] bool normalised) {
  DUO_CHECK(CanNormAndRoute(device, rows, router));
  DUO_CHECK(logits.dtype == DType::kF32 && rows.residual.dtype == DType::kF32);
  DUO_CHECK(rows.out.dtype == ActivationType(device));
  DUO_CHECK_EQ(logits.rows, rows.residual.rows);
  DUO_CHECK_EQ(rows.out.rows, rows.residual.rows);
  if (!rows.add.empty()) DUO_CHECK(rows.add.rows == rows.out.rows && rows.add.cols == rows.out.cols);
  DUO_CHECK_EQ(rows.out.cols, rows.residual.cols);
  DUO_CHECK_EQ(router.cols, rows.residual.cols);
  DUO_CHECK_EQ(logits.cols, router.rows);
  DUO_CHECK(experts >= 1 && experts <= router.rows);
  DUO_CHECK(out.chosen >= 1 && out.chosen <= experts && out.chosen <= kMostChosenExperts);
  if (rows.residual.rows == 0 || device.measuring()) return;
#ifdef DUO_HAVE_CUDA
  cuda::NormAndRoute(device, out, logits, rows, router, experts, normalised);
#endif
}

}  // namespace duo
