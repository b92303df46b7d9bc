// What stands between attention and a mixture's experts in one launch, for a few rows: the sum with the residual stream
// and its norm, the router's product and the choice. Where a device has it: GPUs with clusters of blocks; elsewhere it
// is three ops, and so it is in no table of ops (backend.h). Types, pointers and threads are those of ops.h.
#pragma once

#include "kernels/experts.h"

namespace duo {

// AddRmsNorm's rows: residual += add, and its norm in `out`.
struct NormedRows {
  View out, residual, add;  // add: empty: nothing
  const float* weight = nullptr;
  float eps = 0;
};
// AddRmsNorm, then logits [rows, router.rows] f32 = out times the router, then RouteRows with the first `experts`. A
// row has the bits that it has alone; those of AddRmsNorm and Linear it has not, for sums are cut otherwise.
bool CanNormAndRoute(const Device& device, const NormedRows& rows, const Weight& router);
void NormAndRoute(Device& device, const Routing& out, View logits, const NormedRows& rows, const Weight& router,
                  int experts, bool normalised);

namespace cuda {
bool CanNormAndRoute(const Device& device, const NormedRows& rows, const Weight& router);
void NormAndRoute(Device& device, const Routing& out, View logits, const NormedRows& rows, const Weight& router,
                  int experts, bool normalised);
}  // namespace cuda

}  // namespace duo
