// Chooses what of a product of 3 to 8 rows and codes in groups a block takes at once, and launches linear_quads.cuh's
// kernel.
#include <algorithm>

#include "kernels/cuda/linear/linear_pieces_launch.cuh"
#include "kernels/cuda/linear/linear_quads.h"
#include "kernels/cuda/linear/linear_quads_launch.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// x of a block: what 227 KB a multiprocessor leave beside the warps' sums, on sm_80 what 163 KB leave, on others what
// 99 KB leave.
size_t SharedRoom(const Device& device) {
  const int capability = device.info().capability;
  const bool most = capability >= 90 && capability < 120, more = capability == 80 || capability == 87;
  return size_t{most ? 100u : more ? 70u : 38u} << 10;
}

size_t SharedBytes(const Weight& weight, int shares, int most, int rows) {
  return weight.dtype == DType::kI4 ? QuadSharedBytes<PieceKind<DType::kI4, false>>(shares, most, rows)
                                    : QuadSharedBytes<PieceKind<DType::kI8, false>>(shares, most, rows);
}

// The cut of k is linear_pieces.cu's. rows: those that the kernel is made for.
QuadsPlan PlanQuads(const Device& device, const PiecesPlan& cut, const Weight& weight, int rows) {
  QuadsPlan plan = {};
  plan.warps = cut.warps();
  if (cut.parts == 0) return plan;
  const int most = CeilDiv(CeilDiv(cut.blocks, cut.parts), plan.warps);
  plan.shares = plan.warps;
  while (plan.shares > 0 && SharedBytes(weight, plan.shares, most, rows) > SharedRoom(device)) plan.shares /= 2;
  if (plan.shares == 0) return plan;
  plan.shared = SharedBytes(weight, plan.shares, most, rows);
  const int64_t units = int64_t{cut.parts} * (plan.warps / plan.shares) * CeilDiv(cut.tiles, kQuadWarps / plan.shares);
  plan.grid = static_cast<int>(std::min<int64_t>(kQuadBlocks * device.info().multiprocessors, units));
  return plan;
}

int RowsOfKernel(int64_t rows) { return rows <= 4 ? 4 : kQuadRows; }

// Of the parts' sums, or, where blocks take some shares of a part, of the shares'.
size_t PartialBytes(const PiecesPlan& cut, const QuadsPlan& plan, int rows) {
  const int64_t sums = plan.shares < plan.warps ? int64_t{cut.parts} * plan.warps : cut.parts > 1 ? cut.parts : 0;
  return size_t(sums) * cut.tiles * 16 * rows * sizeof(float);
}

void Run(Device& device, View out, View x, const Weight& weight, SmallOut kind, Arena& scratch) {
  const size_t mark = scratch.used();
  DUO_CHECK(x.rows <= kQuadRows && reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0);
  const int rows = RowsOfKernel(x.rows);
  const PiecesPlan cut = PlanPieces(device, weight);
  const QuadsPlan plan = PlanQuads(device, cut, weight, rows);
  DUO_CHECK_GT(plan.shares, 0);
  SmallArgs args = {};
  args.out = out.data;
  args.out_stride = out.stride;
  args.x = x.as<bf16>();
  args.x_stride = x.stride;
  args.rows = static_cast<int>(x.rows);
  args.weight = weight;
  args.tiles = cut.tiles;
  args.parts = cut.parts;
  args.blocks = cut.blocks;
  args.shares = plan.shares;
  if (const size_t bytes = PartialBytes(cut, plan, rows); bytes > 0) {
    args.partial = static_cast<float*>(scratch.Take(bytes));
  }
  args.arrivals = State(device).counters;
  const PieceWeights weights = PiecesOf(weight);
  if (weight.table != CodeTable::kNone) {
    LaunchTableQuads(device, args, weights, plan, kind);
  } else if (weight.dtype == DType::kI8) {
    LaunchInt8Quads(device, args, weights, plan, kind);
  } else if (EndsWithinBlock(weight)) {
    LaunchQuads<PieceKind<DType::kI4, false, CodeTable::kNone, true>>(device, args, weights, plan, kind);
  } else if (weight.block > 0) {
    LaunchQuads<PieceKind<DType::kI4, true>>(device, args, weights, plan, kind);
  } else {
    LaunchQuads<PieceKind<DType::kI4, false>>(device, args, weights, plan, kind);
  }
  scratch.Rewind(mark);
}

}  // namespace

bool QuadsFit(const Device& device, const Weight& weight) {
  DUO_CHECK(PiecesFit(weight));
  return PlanQuads(device, PlanPieces(device, weight), weight, kQuadRows).shares > 0;
}

size_t QuadsScratchBytes(const Device& device, const Weight& weight) {
  const PiecesPlan cut = PlanPieces(device, weight);
  size_t most = 0;
  for (const int rows : {4, kQuadRows}) {
    most = std::max(most, PartialBytes(cut, PlanQuads(device, cut, weight, rows), rows));
  }
  return Arena::Rounded(most);
}

void QuadsLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, out.dtype == DType::kF32 ? SmallOut::kFloat : SmallOut::kActivation, scratch);
}

void QuadsLinearGated(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  Run(device, out, x, weight, SmallOut::kGated, scratch);
}

}  // namespace duo::cuda
