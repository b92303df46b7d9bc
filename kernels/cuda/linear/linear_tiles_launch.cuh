// Launches linear_tiles.cuh's kernel as linear_tiles.cu has planned it. Its instances are spread over several files,
// which compile side by side.
#pragma once

#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/linear/linear_tiles.cuh"
#include "kernels/cuda/linear/linear_tiles.h"

namespace duo::cuda {

inline int PackedRows(int64_t rows) { return rows <= 64 ? 64 : rows <= 128 ? 128 : kTileRows; }

// Sums of more do not fit the registers, and scales of 8 bits' groups, or a table's numbers, take those of a second
// tile.
constexpr int MostTiles(DType type, int group, CodeTable table, int packed_rows) {
  return packed_rows > 128 || (HasRowScales(type) && group > 0) || table != CodeTable::kNone ? 1 : 2;
}

struct TilesPlan {
  int tiles;  // of 64 outputs, of a warp group
  int parts;  // of k
};

template <typename Codes, int kTiles, int kN>
void SetShared() {
  DUO_CUDA_CHECK(cudaFuncSetAttribute(LinearTiles<Codes, kTiles, kN>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      TilesShape<Codes, kTiles, kN>::kSharedBytes));
}

template <typename Codes, int kTiles, int kN>
void LaunchTiles(Device& device, TilesWork& work, View x, bf16* packed, int parts) {
  using Shape = TilesShape<Codes, kTiles, kN>;
  const Weight& weight = work.weight;
  const int64_t cols = weight.cols;
  work.blocks = static_cast<int>(RoundUp(CeilDiv(cols, Codes::kColumns), Shape::kAtOnce));
  work.codes = ByteBoxMap(weight.data, weight.rows, static_cast<int64_t>(Bytes(weight.dtype, cols)), Shape::kOutputs);
  LaunchOverlapped(device, PackRows<Codes, kN>, dim3(CeilDiv(kN * work.blocks * Codes::kSteps, 256)), dim3(256), 0,
                   packed, x.as<bf16>(), x.stride, work.rows, static_cast<int>(cols), work.blocks);
  SetShared<Codes, kTiles, kN>();
  const unsigned tiles = static_cast<unsigned>(CeilDiv(weight.rows, Shape::kOutputs));
  LaunchClusters(device, LinearTiles<Codes, kTiles, kN>, dim3(parts, tiles), parts, dim3(Shape::kThreads),
                 Shape::kSharedBytes, work);
}
template <typename Codes, int kN>
void LaunchPacked(Device& device, TilesWork& work, View x, bf16* packed, const TilesPlan& plan) {
  if constexpr (MostTiles(Codes::kType, Codes::kLevels, Codes::kTable, kN) == 2) {
    if (plan.tiles == 2) return LaunchTiles<Codes, 2, kN>(device, work, x, packed, plan.parts);
  }
  LaunchTiles<Codes, 1, kN>(device, work, x, packed, plan.parts);
}
template <typename Codes>
void LaunchCodes(Device& device, TilesWork& work, View x, bf16* packed, const TilesPlan& plan) {
  switch (PackedRows(work.rows)) {
    case 64:
      return LaunchPacked<Codes, 64>(device, work, x, packed, plan);
    case 128:
      return LaunchPacked<Codes, 128>(device, work, x, packed, plan);
    default:
      return LaunchPacked<Codes, kTileRows>(device, work, x, packed, plan);
  }
}

// Codes of a table, and fp8 with a scale for each block (linear_tiles_tables.cu).
void LaunchTableTiles(Device& device, TilesWork& work, View x, bf16* packed, const TilesPlan& plan);
void LaunchScaleBlockTiles(Device& device, TilesWork& work, View x, bf16* packed, const TilesPlan& plan);

}  // namespace duo::cuda
