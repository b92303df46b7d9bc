// The kernels of one and two rows for codes of a table.
#include "kernels/base/check.h"
#include "kernels/cuda/linear/linear_pieces_launch.cuh"

namespace duo::cuda {

void LaunchTable(Device& device, const SmallArgs& args, const PieceWeights& weights, bool many, SmallOut out) {
  const Weight& w = args.weight;
  DUO_CHECK(w.dtype == DType::kI4);
  if (w.table == CodeTable::kE2M1) {
    LaunchKind<PieceKind<DType::kI4, false, CodeTable::kE2M1>>(device, args, weights, many, out);
  } else if (w.block > 0) {
    LaunchKind<PieceKind<DType::kI4, true, CodeTable::kIq4>>(device, args, weights, many, out);
  } else {
    LaunchKind<PieceKind<DType::kI4, false, CodeTable::kIq4>>(device, args, weights, many, out);
  }
}

}  // namespace duo::cuda
