// The kernels of many rows for codes of a table, and for fp8 with a scale for each block.
#include "kernels/cuda/linear/linear_tiles_launch.cuh"

namespace duo::cuda {

void LaunchTableTiles(Device& device, TilesWork& work, View x, bf16* packed, const TilesPlan& plan) {
  if (work.weight.table == CodeTable::kE2M1) {
    LaunchCodes<TileCodes<DType::kI4, 1, CodeTable::kE2M1>>(device, work, x, packed, plan);
  } else if (work.weight.block > 0) {
    LaunchCodes<TileCodes<DType::kI4, 2, CodeTable::kIq4>>(device, work, x, packed, plan);
  } else {
    LaunchCodes<TileCodes<DType::kI4, 1, CodeTable::kIq4>>(device, work, x, packed, plan);
  }
}

void LaunchScaleBlockTiles(Device& device, TilesWork& work, View x, bf16* packed, const TilesPlan& plan) {
  LaunchCodes<TileCodes<DType::kF8E4M3, 1>>(device, work, x, packed, plan);
}

}  // namespace duo::cuda
