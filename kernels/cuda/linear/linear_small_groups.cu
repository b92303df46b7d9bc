// The kernels of a few rows for codes in groups as GGUF files have them.
#include "kernels/base/check.h"
#include "kernels/cuda/linear/linear_small_launch.cuh"

namespace duo::cuda {

void LaunchGrouped(Device& device, const SmallArgs& args, const SmallPlan& plan, SmallOut out) {
  const Weight& w = args.weight;
  if (w.dtype == DType::kI4) {
    DUO_CHECK(w.group == 32 && w.block > 0);
    LaunchType<DType::kI4, 32, true>(device, args, plan, out);
  } else if (w.block == 0) {
    DUO_CHECK_EQ(w.group, 32);
    LaunchType<DType::kI8, 32, false>(device, args, plan, out);
  } else if (w.group == 32) {
    LaunchType<DType::kI8, 32, true>(device, args, plan, out);
  } else {
    DUO_CHECK_EQ(w.group, 16);
    LaunchType<DType::kI8, 16, true>(device, args, plan, out);
  }
}

}  // namespace duo::cuda
