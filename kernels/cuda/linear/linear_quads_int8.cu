// The kernels of 3 to 8 rows for int8 codes in groups.
#include "kernels/cuda/linear/linear_quads_launch.cuh"

namespace duo::cuda {

void LaunchInt8Quads(Device& device, const SmallArgs& args, const PieceWeights& weights, const QuadsPlan& plan,
                     SmallOut out) {
  args.weight.block > 0 ? LaunchQuads<PieceKind<DType::kI8, true>>(device, args, weights, plan, out)
                        : LaunchQuads<PieceKind<DType::kI8, false>>(device, args, weights, plan, out);
}

}  // namespace duo::cuda
