// Launches linear_quads.cuh's kernel as linear_quads.cu has planned it. Its instances are spread over several files,
// which compile side by side.
#pragma once

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/linear/linear_quads.cuh"

namespace duo::cuda {

struct QuadsPlan {
  int warps;   // which share a part's k
  int shares;  // of a part that a block takes at once; 0: not even one fits
  int grid;
  size_t shared;
};

template <typename Kind, int kRows, SmallOut kOut>
void LaunchQuadRows(Device& device, const SmallArgs& args, const PieceWeights& weights, const QuadsPlan& plan) {
  const bool whole = args.parts == 1 && plan.shares == plan.warps;
  const auto kernel = whole ? QuadsKernel<Kind, kRows, kOut, true> : QuadsKernel<Kind, kRows, kOut, false>;
  DUO_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(plan.shared)));
  LaunchOverlapped(device, kernel, dim3(plan.grid), dim3(32 * kQuadWarps), plan.shared, args, weights, plan.warps);
}
template <typename Kind, SmallOut kOut>
void LaunchQuadOut(Device& device, const SmallArgs& args, const PieceWeights& weights, const QuadsPlan& plan) {
  if (args.rows <= 4) return LaunchQuadRows<Kind, 4, kOut>(device, args, weights, plan);
  LaunchQuadRows<Kind, 8, kOut>(device, args, weights, plan);
}
template <typename Kind>
void LaunchQuads(Device& device, const SmallArgs& args, const PieceWeights& weights, const QuadsPlan& plan,
                 SmallOut out) {
  switch (out) {
    case SmallOut::kFloat:
      return LaunchQuadOut<Kind, SmallOut::kFloat>(device, args, weights, plan);
    case SmallOut::kActivation:
      return LaunchQuadOut<Kind, SmallOut::kActivation>(device, args, weights, plan);
    case SmallOut::kGated:
      return LaunchQuadOut<Kind, SmallOut::kGated>(device, args, weights, plan);
  }
}

// int8, and codes of a table (linear_quads_int8.cu, linear_quads_tables.cu).
void LaunchInt8Quads(Device& device, const SmallArgs& args, const PieceWeights& weights, const QuadsPlan& plan,
                     SmallOut out);
void LaunchTableQuads(Device& device, const SmallArgs& args, const PieceWeights& weights, const QuadsPlan& plan,
                      SmallOut out);

}  // namespace duo::cuda
