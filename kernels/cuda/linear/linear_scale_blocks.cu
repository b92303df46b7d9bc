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
constexpr int64_t kMostColumns = 30720;  // 16 rows of a sixteenth of them fit also where a block has 99 KB
constexpr int kDepth = 4;                // k-blocks in flight per warp

// How a multiprocessor's warps are dealt to blocks.
enum class Cut { kSmall, kMiddle, kLarge };
constexpr int Warps(Cut cut) { return cut == Cut::kSmall ? 4 : cut == Cut::kMiddle ? 8 : 16; }
constexpr int Blocks(Cut cut) { return cut == Cut::kSmall ? 5 : cut == Cut::kMiddle ? 2 : 1; }

// Bytes of x of a block beside the warps' sums: of what 227 KB a multiprocessor leave, on sm_80 what 163 KB leave, on
// others what 99 KB leave.
size_t SharedRoom(const Device& device, Cut cut) {
  const int capability = device.info().capability;
  const bool most = capability >= 90 && capability < 120, some = capability == 80 || capability == 87;
  const size_t of_all = most ? 180 : some ? 120 : 60;
  return (of_all / Blocks(cut)) << 10;
}

struct ScaledPlan {
  Cut cut;
  int tiles, parts, blocks;
  bool operator==(const ScaledPlan&) const = default;
};

// Parts cost more than they bring (28,672 x 4,096 on an H200: 36.8 us, in two parts 58), so there are as few as x lets.
// Many tiles go to many small blocks, so that some read while others add up; a few more than two for each
// multiprocessor to one large block each, which are the most even.
ScaledPlan Plan(const Device& device, const Weight& weight, int64_t rows) {
  ScaledPlan plan = {};
  plan.tiles = static_cast<int>(CeilDiv(weight.rows, 16));
  plan.blocks = static_cast<int>(weight.cols / kScaledColumns);
  const auto fits = [&](Cut cut, int parts) {
    return static_cast<size_t>(CeilDiv(plan.blocks, parts)) * kScaledXBytes * rows <= SharedRoom(device, cut);
  };
  const int multiprocessors = device.info().multiprocessors;
  plan.cut = rows > kAlikeRows                                                      ? Cut::kLarge
             : plan.tiles >= 4 * multiprocessors && fits(Cut::kSmall, 1)            ? Cut::kSmall
             : plan.tiles > 2 * multiprocessors && plan.tiles < 4 * multiprocessors ? Cut::kLarge
                                                                                    : Cut::kMiddle;
  for (int parts = 1; parts <= std::min(kMostParts, plan.blocks) && plan.parts == 0; ++parts) {
    if (fits(plan.cut, parts)) plan.parts = parts;
  }
  return plan;
}

size_t PartialBytes(const ScaledPlan& plan) {
  return plan.parts > 1 ? size_t{256} * plan.tiles * plan.parts * sizeof(float) : 0;
}

template <int kRows, SmallOut kOut, Cut kCut>
void Launch(Device& device, const ScaleBlocksArgs& args) {
  const auto kernel = ScaleBlocksKernel<kRows, kOut, Warps(kCut), Blocks(kCut), kDepth>;
  const size_t shared =
      static_cast<size_t>(CeilDiv(args.small.blocks, args.small.parts)) * kScaledXBytes * args.small.rows;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SharedRoom(device, kCut)));
  const int grid = std::min(Blocks(kCut) * device.info().multiprocessors, args.small.tiles * args.small.parts);
  LaunchOverlapped(device, kernel, dim3(grid), dim3(32 * Warps(kCut)), shared, args);
}
template <SmallOut kOut>
void LaunchCut(Device& device, const ScaleBlocksArgs& args, Cut cut) {
  if (args.small.rows > kAlikeRows) return Launch<kScaleBlockRows, kOut, Cut::kLarge>(device, args);
  switch (cut) {
    case Cut::kSmall:
      return Launch<kAlikeRows, kOut, Cut::kSmall>(device, args);
    case Cut::kMiddle:
      return Launch<kAlikeRows, kOut, Cut::kMiddle>(device, args);
    case Cut::kLarge:
      return Launch<kAlikeRows, kOut, Cut::kLarge>(device, args);
  }
}

void Run(Device& device, View out, View x, const Weight& weight, SmallOut kind, Arena& scratch) {
  const size_t mark = scratch.used();
  DUO_CHECK(x.rows <= kScaleBlockRows && reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0);
  const ScaledPlan plan = Plan(device, weight, x.rows);
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
      LaunchCut<SmallOut::kFloat>(device, args, plan.cut);
      break;
    case SmallOut::kActivation:
      LaunchCut<SmallOut::kActivation>(device, args, plan.cut);
      break;
    case SmallOut::kGated:
      LaunchCut<SmallOut::kGated>(device, args, plan.cut);
  }
  scratch.Rewind(mark);
}

}  // namespace

bool ScaleBlocksFit(const Weight& weight) {
  return HasScaleBlocks(weight) && weight.group % kScaledColumns == 0 && weight.cols > 0 &&
         weight.cols % kScaledColumns == 0 && weight.cols <= kMostColumns &&
         weight.rows <= 16 * Device::CudaState::kCounters && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
}

// A row's bits follow from how its product is cut.
bool ScaleBlocksAlike(const Device& device, const Weight& weight) {
  const ScaledPlan alone = Plan(device, weight, 1);
  for (int rows = 2; rows <= kAlikeRows; ++rows) {
    if (Plan(device, weight, rows) != alone) return false;
  }
  return true;
}

size_t ScaleBlocksScratchBytes(const Device& device, const Weight& weight) {
  size_t most = 0;
  for (int rows = 1; rows <= kScaleBlockRows; ++rows) most = std::max(most, PartialBytes(Plan(device, weight, rows)));
  return Arena::Rounded(most);
}

void ScaleBlocksLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, out.dtype == DType::kF32 ? SmallOut::kFloat : SmallOut::kActivation, scratch);
}

void ScaleBlocksLinearGated(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, SmallOut::kGated, scratch);
}

}  // namespace duo::cuda
