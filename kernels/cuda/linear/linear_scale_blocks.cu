// Chooses how a product of a few rows and fp8 codes with a scale for each block is cut, and launches
// linear_scale_blocks.cuh's kernel.
#include <algorithm>
#include <bit>

#include "kernels/alike_rows.h"
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/linear/linear_scale_blocks.cuh"
#include "kernels/cuda/linear/linear_scale_blocks.h"
#include "kernels/cuda/state.h"
#include "kernels/scale_blocks.h"

namespace duo::cuda {
namespace {

constexpr int kMostParts = 16;
constexpr int64_t kMostColumns = 32768;                            // 16 rows of a sixteenth of them fit
constexpr double kBytesPerSecond = 3.5e12, kPartSeconds = 1.5e-6;  // measured on an H200, for Plan

constexpr int kDepth = 4;  // k-blocks in flight per warp
// Of up to 8 rows and of more.
constexpr int Warps(bool more) { return more ? 16 : 8; }
constexpr int Blocks(bool more) { return more ? 1 : 2; }

// Bytes of x beside the warps' sums: what 227 KB a multiprocessor leave, on sm_80 what 163 KB leave, on others what 99
// KB leave.
size_t SharedRoom(const Device& device, bool more) {
  const int capability = device.info().capability;
  const bool most = capability >= 90 && capability < 120, some = capability == 80 || capability == 87;
  if (most) return size_t{more ? 190u : 90u} << 10;
  if (some) return size_t{more ? 120u : 64u} << 10;
  return size_t{more ? 60u : 36u} << 10;
}

// How a product is cut. By the weight and the device, and by whether there are more than 8 rows: a row's bits follow
// from it, which must not depend on the rows beside it.
struct ScaledPlan {
  int tiles, parts, blocks, grid;
};

ScaledPlan Plan(const Device& device, const Weight& weight, bool more) {
  ScaledPlan plan = {};
  plan.tiles = static_cast<int>(CeilDiv(weight.rows, 16));
  plan.blocks = static_cast<int>(weight.cols / kScaledColumns);
  const int rows = more ? kScaleBlockRows : kAlikeRows, most = Blocks(more) * device.info().multiprocessors;
  double best_time = 0;
  for (int parts = 1; parts <= std::min(kMostParts, plan.blocks); ++parts) {
    if (static_cast<size_t>(CeilDiv(plan.blocks, parts)) * kScaledXBytes * rows > SharedRoom(device, more)) continue;
    // Time by the bytes, the blocks left idle in the last round, and what a unit's partial sum costs. Half of the
    // blocks can still read at the full rate.
    const int64_t units = int64_t{plan.tiles} * parts, rounds = CeilDiv(units, most);
    const double share = std::min(1.0, 2.0 * units / (rounds * most));
    const double time = weight.bytes() / (kBytesPerSecond * share) + (parts > 1 ? kPartSeconds * rounds : 0);
    if (plan.parts == 0 || time < best_time) plan.parts = parts, best_time = time;
  }
  plan.grid = static_cast<int>(std::min<int64_t>(most, int64_t{plan.tiles} * plan.parts));
  return plan;
}

size_t PartialBytes(const ScaledPlan& plan) {
  return plan.parts > 1 ? size_t{256} * plan.tiles * plan.parts * sizeof(float) : 0;
}

template <int kRows, SmallOut kOut>
void Launch(Device& device, const ScaleBlocksArgs& args, int grid) {
  constexpr bool kMore = kRows > kAlikeRows;
  const auto kernel = ScaleBlocksKernel<kRows, kOut, Warps(kMore), Blocks(kMore), kDepth>;
  const size_t shared =
      static_cast<size_t>(CeilDiv(args.small.blocks, args.small.parts)) * kScaledXBytes * args.small.rows;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SharedRoom(device, kMore)));
  LaunchOverlapped(device, kernel, dim3(grid), dim3(32 * Warps(kMore)), shared, args);
}
template <SmallOut kOut>
void LaunchRows(Device& device, const ScaleBlocksArgs& args, int grid) {
  if (args.small.rows <= kAlikeRows) return Launch<8, kOut>(device, args, grid);
  Launch<16, kOut>(device, args, grid);
}

void Run(Device& device, View out, View x, const Weight& weight, SmallOut kind, Arena& scratch) {
  const size_t mark = scratch.used();
  DUO_CHECK(x.rows <= kScaleBlockRows && reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0);
  const ScaledPlan plan = Plan(device, weight, x.rows > kAlikeRows);
  DUO_CHECK_GT(plan.parts, 0);
  const auto shift = [](int count) { return std::countr_zero(static_cast<unsigned>(count)); };
  ScaleBlocksArgs args = {};
  args.small.out = out.data;
  args.small.out_stride = out.stride;
  args.small.x = x.as<bf16>();
  args.small.x_stride = x.stride;
  args.small.rows = static_cast<int>(x.rows);
  args.small.weight = weight;
  args.small.tiles = plan.tiles;
  args.small.parts = plan.parts;
  args.small.blocks = plan.blocks;
  if (const size_t bytes = PartialBytes(plan); bytes > 0) args.small.partial = static_cast<float*>(scratch.Take(bytes));
  args.small.arrivals = State(device).counters;
  args.block_shift = shift(weight.block);
  args.group_shift = shift(weight.group / kScaledColumns);
  args.across = static_cast<int>(ScalesAcross(weight));
  switch (kind) {
    case SmallOut::kFloat:
      LaunchRows<SmallOut::kFloat>(device, args, plan.grid);
      break;
    case SmallOut::kActivation:
      LaunchRows<SmallOut::kActivation>(device, args, plan.grid);
      break;
    case SmallOut::kGated:
      LaunchRows<SmallOut::kGated>(device, args, plan.grid);
  }
  scratch.Rewind(mark);
}

}  // namespace

bool ScaleBlocksFit(const Weight& weight) {
  return HasScaleBlocks(weight) && weight.group % kScaledColumns == 0 && weight.cols > 0 &&
         weight.cols % kScaledColumns == 0 && weight.cols <= kMostColumns &&
         weight.rows <= 16 * Device::CudaState::kCounters && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
}

bool ScaleBlocksAlike(const Device& device, const Weight& weight) { return Plan(device, weight, false).parts > 0; }

size_t ScaleBlocksScratchBytes(const Device& device, const Weight& weight) {
  return Arena::Rounded(std::max(PartialBytes(Plan(device, weight, false)), PartialBytes(Plan(device, weight, true))));
}

void ScaleBlocksLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, out.dtype == DType::kF32 ? SmallOut::kFloat : SmallOut::kActivation, scratch);
}

void ScaleBlocksLinearGated(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, SmallOut::kGated, scratch);
}

}  // namespace duo::cuda
