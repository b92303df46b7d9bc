// The kernels of 3 to 8 rows for codes of a table.
#include "kernels/base/check.h"
#include "kernels/cuda/linear/linear_quads_launch.cuh"

namespace duo::cuda {

void LaunchTableQuads(Device& device, const SmallArgs& args, const PieceWeights& weights, const QuadsPlan& plan,
                      SmallOut out) {
  const Weight& w = args.weight;
  DUO_CHECK(w.dtype == DType::kI4);
  if (w.table == CodeTable::kE2M1) {
    LaunchQuads<PieceKind<DType::kI4, false, CodeTable::kE2M1>>(device, args, weights, plan, out);
  } else if (w.block > 0) {
    LaunchQuads<PieceKind<DType::kI4, true, CodeTable::kIq4>>(device, args, weights, plan, out);
  } else {
    LaunchQuads<PieceKind<DType::kI4, false, CodeTable::kIq4>>(device, args, weights, plan, out);
  }
}

}  // namespace duo::cuda
