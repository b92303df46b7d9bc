// Chooses how a product of a few rows is cut, and launches linear_small.cuh's kernel.
#include <algorithm>
#include <bit>

#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/linear/linear_small.h"
#include "kernels/cuda/linear/linear_small_launch.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kMostParts = 16;
constexpr double kBytesPerSecond = 2.7e12, kPartSeconds = 1.5e-6;  // measured on an H100, for PlanSmall
constexpr int64_t kMostColumns = 32768;                            // 16 rows of a sixteenth of them fit

int BlockColumns(DType type) { return HasGroups(type) ? 128 : HasRowScales(type) ? 64 : 32; }

// x of a block that takes `shares` of a part's at once, of such a plan.
size_t ShareXBytes(const SmallPlan& plan, int shares, int64_t rows, DType type) {
  const int64_t blocks = CeilDiv(CeilDiv(plan.blocks, plan.parts), WarpsFor(kAlikeRows));
  return shares * blocks * BlockColumns(type) * rows * sizeof(bf16);
}

// Rows of codes in groups are not alike: those of linear_pieces.h are scaled by other pieces.
bool Alike(int64_t rows, const Weight& weight) { return rows <= kAlikeRows && weight.group == 0; }

SmallPlan PlanSmall(const Device& device, int64_t rows, const Weight& weight) {
  if (rows > 1 && Alike(rows, weight)) {
    SmallPlan plan = PlanSmall(device, 1, weight);
    if (plan.parts == 0) return plan;
    const size_t most = SharedXFor(device, kAlikeRows);
    const size_t whole = size_t(CeilDiv(plan.blocks, plan.parts)) * BlockColumns(weight.dtype) * rows * sizeof(bf16);
    plan.shared = whole;
    if (whole > most) {
      do plan.shares /= 2;
      while (plan.shares > 1 && ShareXBytes(plan, plan.shares, rows, weight.dtype) > most);
      plan.shared = ShareXBytes(plan, plan.shares, rows, weight.dtype);
      if (plan.shared > most) plan.parts = 0;
      const int warps = WarpsFor(kAlikeRows), tile_groups = CeilDiv(plan.tiles, warps / plan.shares);
      const int64_t units = int64_t{plan.parts} * (warps / plan.shares) * tile_groups;
      plan.grid = static_cast<int>(std::min<int64_t>(BlocksFor(kAlikeRows) * device.info().multiprocessors, units));
    }
    plan.shared = RoundUp(plan.shared, 16);
    return plan;
  }
  SmallPlan plan = {};
  plan.shares = WarpsFor(MostRows(rows, weight.dtype));
  plan.tiles = static_cast<int>(CeilDiv(weight.rows, 16));
  plan.blocks = static_cast<int>(weight.cols / BlockColumns(weight.dtype));
  const int most_rows = MostRows(rows, weight.dtype), grid = BlocksFor(most_rows) * device.info().multiprocessors;
  auto shared_bytes = [&](int parts) {
    const size_t blocks = CeilDiv(plan.blocks, parts);
    const int pieces = weight.group > 0 ? std::max(1, BlockColumns(weight.dtype) / weight.group) : 0;
    const size_t sums = blocks * pieces * rows * sizeof(float);
    return blocks * BlockColumns(weight.dtype) * rows * sizeof(bf16) + sums;
  };
  int best = 0;
  double best_time = 0;
  for (int parts = 1; parts <= std::min(kMostParts, plan.blocks); ++parts) {
    if (shared_bytes(parts) > SharedXFor(device, most_rows)) continue;
    const int64_t units = int64_t{plan.tiles} * parts;
    // Time by the bytes, the blocks left idle in the last round, and what a unit's partial sum costs. Half of the
    // blocks can still read at the full rate.
    const int64_t rounds = CeilDiv(units, grid);
    const double share = std::min(1.0, 2.0 * units / (rounds * grid));
    const double time = weight.bytes() / (kBytesPerSecond * share) + (parts > 1 ? kPartSeconds * rounds : 0);
    if (best == 0 || time < best_time) best = parts, best_time = time;
  }
  plan.parts = best;
  plan.grid = static_cast<int>(std::min<int64_t>(grid, int64_t{plan.tiles} * plan.parts));
  plan.shared = best == 0 ? 0 : RoundUp(shared_bytes(best), 16);
  return plan;
}

// Of the parts' sums, or, where blocks take some shares of a part, of the shares'.
size_t PartialBytes(const SmallPlan& plan, int64_t rows) {
  if (TakesShares(plan, rows)) {
    return size_t{16 * kAlikeRows} * plan.tiles * plan.parts * WarpsFor(kAlikeRows) * sizeof(float);
  }
  return plan.parts > 1 ? size_t{256} * plan.tiles * plan.parts * sizeof(float) : 0;
}

void Run(Device& device, View out, View x, const Weight& weight, SmallOut kind, Arena& scratch) {
  const size_t mark = scratch.used();
  const SmallPlan plan = PlanSmall(device, x.rows, weight);
  DUO_CHECK_GT(plan.parts, 0);
  DUO_CHECK(reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0);
  SmallArgs args = {};
  args.out = out.data;
  args.out_stride = out.stride;
  args.x = x.as<bf16>();
  args.x_stride = x.stride;
  args.rows = static_cast<int>(x.rows);
  args.weight = weight;
  args.tiles = plan.tiles;
  args.parts = plan.parts;
  args.blocks = plan.blocks;
  args.shares = plan.shares;
  if (const size_t bytes = PartialBytes(plan, x.rows); bytes > 0) {
    args.partial = static_cast<float*>(scratch.Take(bytes));
  }
  args.arrivals = State(device).counters;
  if (weight.block > 0)
    args.pair_shift = std::countr_zero(static_cast<unsigned>(weight.block / BlockColumns(weight.dtype)));
  switch (weight.dtype) {
    case DType::kBF16:
      LaunchType<DType::kBF16, 0>(device, args, plan, kind);
      break;
    case DType::kF16:
      LaunchType<DType::kF16, 0>(device, args, plan, kind);
      break;
    case DType::kF8E4M3:
      LaunchType<DType::kF8E4M3, 0>(device, args, plan, kind);
      break;
    case DType::kI8:
      if (weight.group > 0) {
        LaunchGrouped(device, args, plan, kind);
      } else {
        LaunchType<DType::kI8, 0>(device, args, plan, kind);
      }
      break;
    default:
      if (weight.block > 0) {
        LaunchGrouped(device, args, plan, kind);
        break;
      }
      if (weight.group == 128) LaunchType<DType::kI4, 128>(device, args, plan, kind);
      if (weight.group == 64) LaunchType<DType::kI4, 64>(device, args, plan, kind);
      if (weight.group == 32) LaunchType<DType::kI4, 32>(device, args, plan, kind);
  }
  scratch.Rewind(mark);
}

// int8 in groups and groups of two levels: those of linear_small_groups.cu, whose k-blocks lie within a block of
// groups.
bool HasKernel(const Weight& w) {
  if (w.table != CodeTable::kNone) return false;
  if (w.dtype == DType::kI4) return w.block == 0 || (w.group == 32 && w.block % BlockColumns(w.dtype) == 0);
  if (w.dtype == DType::kF8E4M3) return w.group == 0;  // in blocks: linear_scale_blocks.h
  if (w.dtype != DType::kI8 || w.group == 0) return true;
  if (w.block == 0) return w.group == 32;
  return (w.group == 16 || w.group == 32) && w.block % BlockColumns(w.dtype) == 0;
}

}  // namespace

bool SmallLinearFits(const Weight& weight) {
  return HasKernel(weight) && (weight.dtype == DType::kBF16 || weight.dtype == DType::kF16 || IsCoded(weight.dtype)) &&
         weight.cols % BlockColumns(weight.dtype) == 0 && weight.cols <= kMostColumns &&
         weight.rows <= 16 * Device::CudaState::kCounters && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
}

bool SmallLinearAlike(const Device& device, const Weight& weight) {
  return Alike(kAlikeRows, weight) && PlanSmall(device, kAlikeRows, weight).parts > 0;
}

size_t SmallLinearScratchBytes(const Device& device, int64_t rows, const Weight& weight) {
  size_t most = 0;
  for (int64_t r = 1; r <= rows; ++r) {  // parts, and with them the partial sums, are not monotonic in the rows
    most = std::max(most, PartialBytes(PlanSmall(device, r, weight), r));
  }
  return Arena::Rounded(most);
}

void SmallLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, out.dtype == DType::kF32 ? SmallOut::kFloat : SmallOut::kActivation, scratch);
}

void SmallLinearGated(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, SmallOut::kGated, scratch);
}

}  // namespace duo::cuda
