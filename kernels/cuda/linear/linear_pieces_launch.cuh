// Launches linear_pieces_kernel.cuh's kernel as linear_pieces.cu has planned it. Its instances are spread over several
// files, which compile side by side.
#pragma once

#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/linear/linear_pieces.h"
#include "kernels/cuda/linear/linear_pieces_kernel.cuh"

namespace duo::cuda {

// How a product is cut. By the weight and the device alone: a row's bits follow from it, which must not depend on the
// rows beside it.
struct PiecesPlan {
  // Outputs, and k in one part: blocks of 4 warps then, else of 8, so that all multiprocessors have enough to read.
  bool many;
  int tiles, parts, blocks, units;
  int warps() const { return many ? 4 : 8; }
};
PiecesPlan PlanPieces(const Device& device, const Weight& weight);  // linear_pieces.cu's
bool EndsWithinBlock(const Weight& weight);                         // do columns?

template <typename Kind, int kRows, SmallOut kOut, int kWarps, int kBlocks, bool kParts>
void LaunchPieces(Device& device, const SmallArgs& args, const PieceWeights& weights) {
  const auto kernel = PiecesKernel<Kind, kRows, kOut, kWarps, kBlocks, kParts>;
  const size_t shared = PieceSharedBytes<Kind::kType>(CeilDiv(args.blocks, args.parts), kWarps, kRows);
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  const int grid = std::min(kBlocks * device.info().multiprocessors, args.tiles * args.parts);
  LaunchOverlapped(device, kernel, dim3(grid), dim3(32 * kWarps), shared, args, weights);
}
template <typename Kind, int kRows, SmallOut kOut>
void LaunchRows(Device& device, const SmallArgs& args, const PieceWeights& weights, bool many) {
  constexpr int kManyBlocks = kRows == 1 ? 5 : 4;
  if (many) return LaunchPieces<Kind, kRows, kOut, 4, kManyBlocks, false>(device, args, weights);
  if (args.parts == 1) return LaunchPieces<Kind, kRows, kOut, 8, 2, false>(device, args, weights);
  LaunchPieces<Kind, kRows, kOut, 8, 2, true>(device, args, weights);
}
template <typename Kind, SmallOut kOut>
void LaunchCut(Device& device, const SmallArgs& args, const PieceWeights& weights, bool many) {
  if (args.rows == 1) return LaunchRows<Kind, 1, kOut>(device, args, weights, many);
  LaunchRows<Kind, kPieceRows, kOut>(device, args, weights, many);
}
// many: PiecesPlan's.
template <typename Kind>
void LaunchKind(Device& device, const SmallArgs& args, const PieceWeights& weights, bool many, SmallOut out) {
  switch (out) {
    case SmallOut::kFloat:
      return LaunchCut<Kind, SmallOut::kFloat>(device, args, weights, many);
    case SmallOut::kActivation:
      return LaunchCut<Kind, SmallOut::kActivation>(device, args, weights, many);
    case SmallOut::kGated:
      return LaunchCut<Kind, SmallOut::kGated>(device, args, weights, many);
  }
}

// Codes of a table (linear_pieces_tables.cu).
void LaunchTable(Device& device, const SmallArgs& args, const PieceWeights& weights, bool many, SmallOut out);

}  // namespace duo::cuda
