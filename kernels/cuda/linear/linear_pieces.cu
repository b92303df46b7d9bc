// Chooses how a product of a few rows and codes in groups is cut, and launches linear_pieces_kernel.cuh's kernel.
#include <algorithm>
#include <bit>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/linear/linear_pieces.h"
#include "kernels/cuda/linear/linear_pieces_launch.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kMostParts = 16;
constexpr int64_t kMostColumns = 32768;                            // two rows of a sixteenth of them fit
constexpr double kBytesPerSecond = 3.5e12, kPartSeconds = 1.5e-6;  // measured on an H200, for Plan

int PieceColumns(DType type) { return type == DType::kI4 ? 32 : 16; }

size_t SharedBytes(const Weight& weight, int blocks, int warps) {
  return weight.dtype == DType::kI4 ? PieceSharedBytes<DType::kI4>(blocks, warps, kPieceRows)
                                    : PieceSharedBytes<DType::kI8>(blocks, warps, kPieceRows);
}
// Beside the warps' sums: what 227 KB a multiprocessor leave, on sm_80 what 163 KB leave, on others what 99 KB leave.
size_t SharedRoom(const Device& device) {
  const int capability = device.info().capability;
  const bool most = capability >= 90 && capability < 120, more = capability == 80 || capability == 87;
  return size_t{most ? 200u : more ? 140u : 72u} << 10;
}

}  // namespace

bool EndsWithinBlock(const Weight& weight) { return weight.cols % (4 * PieceColumns(weight.dtype)) != 0; }

PiecesPlan PlanPieces(const Device& device, const Weight& weight) {
  PiecesPlan plan = {};
  plan.tiles = static_cast<int>(CeilDiv(weight.rows, 16));
  plan.blocks = static_cast<int>(CeilDiv(weight.cols, 4 * PieceColumns(weight.dtype)));
  plan.many =
      plan.tiles >= 4 * device.info().multiprocessors && SharedBytes(weight, plan.blocks, 4) <= SharedRoom(device);
  const int warps = plan.many ? 4 : 8, grid = (plan.many ? 4 : 2) * device.info().multiprocessors;
  double best_time = 0;
  for (int parts = 1; parts <= std::min(kMostParts, plan.blocks); ++parts) {
    if (SharedBytes(weight, CeilDiv(plan.blocks, parts), warps) > SharedRoom(device)) continue;
    // Time by the bytes, the blocks left idle in the last round, and what a unit's partial sum costs. Half of the
    // blocks can still read at the full rate.
    const int64_t units = int64_t{plan.tiles} * parts, rounds = CeilDiv(units, grid);
    const double share = std::min(1.0, 2.0 * units / (rounds * grid));
    const double time = weight.bytes() / (kBytesPerSecond * share) + (parts > 1 ? kPartSeconds * rounds : 0);
    if (plan.parts == 0 || time < best_time) plan.parts = parts, best_time = time;
    if (plan.many) break;  // all blocks are busy
  }
  plan.units = plan.tiles * plan.parts;
  return plan;
}

namespace {

void Run(Device& device, View out, View x, const Weight& weight, SmallOut kind, Arena& scratch) {
  const size_t mark = scratch.used();
  DUO_CHECK(x.rows <= kPieceRows && reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0);
  const PiecesPlan plan = PlanPieces(device, weight);
  DUO_CHECK_GT(plan.parts, 0);
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
  if (plan.parts > 1) {
    args.partial = static_cast<float*>(scratch.Take(size_t{256} * plan.units * sizeof(float)));
  }
  args.arrivals = State(device).counters;
  const PieceWeights weights = PiecesOf(weight);
  const bool two = weight.block > 0;
  if (weight.table != CodeTable::kNone) {
    LaunchTable(device, args, weights, plan.many, kind);
  } else if (EndsWithinBlock(weight)) {
    LaunchKind<PieceKind<DType::kI4, false, CodeTable::kNone, true>>(device, args, weights, plan.many, kind);
  } else if (weight.dtype == DType::kI4) {
    two ? LaunchKind<PieceKind<DType::kI4, true>>(device, args, weights, plan.many, kind)
        : LaunchKind<PieceKind<DType::kI4, false>>(device, args, weights, plan.many, kind);
  } else {
    two ? LaunchKind<PieceKind<DType::kI8, true>>(device, args, weights, plan.many, kind)
        : LaunchKind<PieceKind<DType::kI8, false>>(device, args, weights, plan.many, kind);
  }
  scratch.Rewind(mark);
}

}  // namespace

PieceWeights PiecesOf(const Weight& weight) {
  const auto shift = [](int columns) { return std::countr_zero(static_cast<unsigned>(columns)); };
  const int piece = shift(PieceColumns(weight.dtype));
  PieceWeights pieces = {};
  pieces.codes = static_cast<const uint4*>(weight.data);
  pieces.pairs = reinterpret_cast<const uint32_t*>(weight.groups);
  pieces.subs = reinterpret_cast<const uint16_t*>(weight.subs);
  pieces.exponents = weight.exponents;
  pieces.pair_shift = shift(weight.pair_cols()) - piece;
  pieces.sub_shift = shift(weight.group) - piece;
  return pieces;
}

bool HasPieces(const Weight& weight) {
  if (weight.dtype != DType::kI4 && weight.dtype != DType::kI8) return false;
  const int columns = PieceColumns(weight.dtype);
  const auto whole = [&](int group) {
    return group >= columns && std::has_single_bit(static_cast<unsigned>(group)) && weight.cols % group == 0;
  };
  // Of the other kinds no kernel has columns that end within a block.
  const bool any_end = weight.table != CodeTable::kNone || (weight.dtype == DType::kI4 && weight.block == 0);
  return whole(weight.group) && whole(weight.pair_cols()) && weight.cols > 0 && (any_end || !EndsWithinBlock(weight)) &&
         weight.rows * (weight.cols / columns) < int64_t{1} << 32 && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
}

bool PiecesFit(const Weight& weight) {
  return HasPieces(weight) && weight.cols <= kMostColumns && weight.rows <= 16 * Device::CudaState::kCounters;
}

size_t PiecesScratchBytes(const Device& device, const Weight& weight) {
  const PiecesPlan plan = PlanPieces(device, weight);
  return plan.parts > 1 ? Arena::Rounded(size_t{256} * plan.units * sizeof(float)) : 0;
}

void PiecesLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, out.dtype == DType::kF32 ? SmallOut::kFloat : SmallOut::kActivation, scratch);
}

void PiecesLinearGated(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, SmallOut::kGated, scratch);
}

}  // namespace duo::cuda
