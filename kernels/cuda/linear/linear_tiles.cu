// Chooses how a product of many rows with coded weights is cut, and launches linear_tiles.cuh's kernel.
#include <algorithm>
#include <bit>

#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/linear/linear_tiles_launch.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kMostParts = 8;  // blocks of a cluster that every Hopper GPU grants

int KBlockColumns(DType type) { return type == DType::kI4 ? 128 : 64; }
// A cluster's blocks are neighbours, which leaves some multiprocessors over: 30 clusters of 4, say, on 132.
int ClustersAtOnce(Device& device, int parts) {
  int& known = State(device).clusters_at_once[parts];
  if (parts == 1) return device.info().multiprocessors;
  if (known > 0) return known;
  using Codes = TileCodes<DType::kI8, 0>;  // all kernels fill a multiprocessor
  SetShared<Codes, 1, 64>();
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(parts), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(parts, 1);
  config.blockDim = dim3(TilesShape<Codes, 1, 64>::kThreads);
  config.dynamicSmemBytes = TilesShape<Codes, 1, 64>::kSharedBytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int clusters = 0;
  DUO_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, LinearTiles<Codes, 1, 64>, &config));
  return known = std::max(1, clusters);
}

// What a cut takes by its bytes and products, as measured on an H200: how fast a multiprocessor multiplies, how fast it
// is fed from the L2 and how fast all are from memory, and what a block costs before its first and after its last
// k-block.
TilesPlan PlanTiles(Device& device, const Weight& weight, int packed_rows) {
  constexpr double kCyclesPerSecond = 1.8e9, kProductShare = 0.85, kL2BytesPerSecond = 5e12, kBytesPerSecond = 3.4e12;
  constexpr double kBlockSeconds = 4e-6, kPartSeconds = 0.2e-6;
  const int subs = KBlockColumns(weight.dtype) / 64;
  const int64_t units = CeilDiv(weight.cols, int64_t{128});  // a part has one at least
  TilesPlan best = {1, 1};
  double best_time = 0;
  const int most_tiles = MostTiles(weight.dtype, weight.group, weight.table, packed_rows);
  for (int tiles = 1; tiles <= most_tiles; ++tiles) {
    for (int parts = 1; parts <= kMostParts && parts <= units; ++parts) {
      const int64_t clusters = CeilDiv(weight.rows, 128 * tiles), at_once = ClustersAtOnce(device, parts);
      const double running = static_cast<double>(std::min(clusters, at_once) * parts);
      const double codes = 128.0 * tiles * 64 * (2 / subs), x = 128.0 * 2 * packed_rows;
      const double products = 2.0 * 8 * tiles * (packed_rows / 2.0) / (kCyclesPerSecond * kProductShare);
      const double unit =
          std::max({products, (codes + x) * running / kL2BytesPerSecond, codes * running / kBytesPerSecond});
      const double rounds = static_cast<double>(CeilDiv(clusters, at_once));
      const double time = rounds * (CeilDiv(units, int64_t{parts}) * unit + kBlockSeconds + parts * kPartSeconds);
      if (best_time == 0 || time < best_time) best = {tiles, parts}, best_time = time;
    }
  }
  return best;
}

}  // namespace

bool TiledLinearFits(const Device& device, const Weight& weight) {
  if (!IsHopper(device) || !IsCoded(weight.dtype)) return false;
  const int lane_columns = KBlockColumns(weight.dtype) / 4;  // of one group
  for (const int columns : {weight.group, weight.block}) {
    if (columns > 0 && !std::has_single_bit(static_cast<unsigned>(columns))) return false;
  }
  return weight.cols > 0 && weight.cols % lane_columns == 0 &&
         (weight.group == 0 || weight.group % lane_columns == 0) && weight.rows <= int64_t{65535} * 128 &&
         weight.rows * weight.cols < int64_t{1} << 35 && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
}

size_t TiledLinearScratchBytes(int64_t rows, const Weight& weight) {
  const int64_t columns = RoundUp(weight.cols, 128);  // two k-blocks of 8 bits, one of 4
  return Arena::Rounded(PackedRows(std::min<int64_t>(rows, kTileRows)) * columns * sizeof(bf16));
}

void TiledLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  DUO_CHECK(x.rows <= kTileRows && reinterpret_cast<uintptr_t>(x.data) % 8 == 0 && x.stride % 4 == 0);
  const size_t mark = scratch.used();
  auto* packed = static_cast<bf16*>(scratch.Take(TiledLinearScratchBytes(x.rows, weight)));
  TilesWork work = {};
  work.x = packed;
  work.weight = weight;
  work.out = out.data;
  work.out_stride = out.stride;
  work.out_float = out.dtype == DType::kF32;
  work.by_fours = out.stride % 4 == 0 && weight.rows % 4 == 0 &&
                  reinterpret_cast<uintptr_t>(out.data) % (work.out_float ? 16 : 8) == 0;
  work.rows = static_cast<int>(x.rows);
  if (weight.group > 0) {
    work.pair_shift =
        std::countr_zero(static_cast<unsigned>(HasScaleBlocks(weight) ? weight.group : weight.pair_cols()));
    work.group_shift = std::countr_zero(static_cast<unsigned>(weight.group));
  }
  const TilesPlan plan = PlanTiles(device, weight, PackedRows(x.rows));
  const bool two = weight.block > 0;
  if (weight.table != CodeTable::kNone) {
    LaunchTableTiles(device, work, x, packed, plan);
  } else if (weight.dtype == DType::kI4) {
    if (two) {
      LaunchCodes<TileCodes<DType::kI4, 2>>(device, work, x, packed, plan);
    } else {
      LaunchCodes<TileCodes<DType::kI4, 1>>(device, work, x, packed, plan);
    }
  } else if (HasScaleBlocks(weight)) {
    LaunchScaleBlockTiles(device, work, x, packed, plan);
  } else if (weight.dtype == DType::kF8E4M3) {
    LaunchCodes<TileCodes<DType::kF8E4M3, 0>>(device, work, x, packed, plan);
  } else if (weight.group == 0) {
    LaunchCodes<TileCodes<DType::kI8, 0>>(device, work, x, packed, plan);
  } else if (two) {
    LaunchCodes<TileCodes<DType::kI8, 2>>(device, work, x, packed, plan);
  } else {
    LaunchCodes<TileCodes<DType::kI8, 1>>(device, work, x, packed, plan);
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
