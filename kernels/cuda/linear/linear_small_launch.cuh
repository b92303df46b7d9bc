// Launches linear_small.cuh's kernel for a plan (linear_small.cu). Its instances are spread over several files, which
// compile side by side.
#pragma once

#include "kernels/base/cuda_check.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/linear/linear_small.cuh"
#include "kernels/cuda/linear/linear_small.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {

struct SmallPlan {
  int tiles, parts, blocks, grid;
  int shares;  // of a part that a block takes at once
  size_t shared;
};

// Is it cut so that blocks take some of a part's shares, for up to kAlikeRows rows?
inline bool TakesShares(const SmallPlan& plan, int64_t rows) {
  return rows <= kAlikeRows && plan.shares < WarpsFor(kAlikeRows);
}

// The rows that a kernel is made for.
inline int MostRows(int64_t rows, DType type) {
  const bool integer = type == DType::kI8 || type == DType::kI4;
  return integer && rows <= 4 ? 4 : rows <= 8 ? 8 : 16;
}

// Bytes of x beside the warps' sums: what 227 KB a multiprocessor leave, on sm_80 what 163 KB leave.
inline size_t SharedXFor(const Device& device, int most_rows) {
  if (device.info().capability < 90) return size_t{most_rows <= 8 ? 64u : 120u} << 10;
  return size_t{most_rows <= 8 ? 90u : 190u} << 10;
}

template <DType kType, int kGroup, bool kTwo, int kRows, SmallOut kOut>
void Launch(Device& device, const SmallArgs& args, const SmallPlan& plan) {
  auto kernel = SmallLinearKernel<kType, kGroup, kTwo, kRows, kOut, false>;
  if constexpr (!BlockShape<kType, kGroup>::kInteger && kRows == 8) {
    if (args.rows > 2) kernel = SmallLinearKernel<kType, kGroup, kTwo, kRows, kOut, true>;
  }
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SharedXFor(device, kRows)));
  LaunchOverlapped(device, kernel, dim3(plan.grid), dim3(32 * WarpsFor(kRows)), plan.shared, args);
}
template <DType kType, SmallOut kOut>
void LaunchShares(Device& device, const SmallArgs& args, const SmallPlan& plan) {
  const auto kernel = ShareLinearKernel<kType, kOut>;
  const size_t most = SharedXFor(device, kAlikeRows);
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  LaunchOverlapped(device, kernel, dim3(plan.grid), dim3(32 * WarpsFor(kAlikeRows)), plan.shared, args);
}
template <DType kType, int kGroup, bool kTwo, int kRows>
void LaunchRows(Device& device, const SmallArgs& args, const SmallPlan& plan, SmallOut out) {
  switch (out) {
    case SmallOut::kFloat:
      return Launch<kType, kGroup, kTwo, kRows, SmallOut::kFloat>(device, args, plan);
    case SmallOut::kActivation:
      return Launch<kType, kGroup, kTwo, kRows, SmallOut::kActivation>(device, args, plan);
    case SmallOut::kGated:
      return Launch<kType, kGroup, kTwo, kRows, SmallOut::kGated>(device, args, plan);
  }
}
// kTwo: groups of two levels.
template <DType kType, int kGroup, bool kTwo = false>
void LaunchType(Device& device, const SmallArgs& args, const SmallPlan& plan, SmallOut out) {
  if constexpr (kGroup == 0) {
    if (TakesShares(plan, args.rows)) {
      switch (out) {
        case SmallOut::kFloat:
          return LaunchShares<kType, SmallOut::kFloat>(device, args, plan);
        case SmallOut::kActivation:
          return LaunchShares<kType, SmallOut::kActivation>(device, args, plan);
        case SmallOut::kGated:
          return LaunchShares<kType, SmallOut::kGated>(device, args, plan);
      }
    }
  }
  switch (MostRows(args.rows, kType)) {
    case 4:
      if constexpr (BlockShape<kType, kGroup>::kInteger) LaunchRows<kType, kGroup, kTwo, 4>(device, args, plan, out);
      break;
    case 8:
      LaunchRows<kType, kGroup, kTwo, 8>(device, args, plan, out);
      break;
    default:
      LaunchRows<kType, kGroup, kTwo, 16>(device, args, plan, out);
  }
}

// int8 in groups, and groups of two levels (linear_small_groups.cu): of the weights that SmallLinearFits.
void LaunchGrouped(Device& device, const SmallArgs& args, const SmallPlan& plan, SmallOut out);

}  // namespace duo::cuda
