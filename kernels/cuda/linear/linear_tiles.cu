// Chooses how a product of many rows with coded weights is cut, and launches linear_tiles.cuh's kernel.
#include "kernels/cuda/linear/linear_tiles.cuh"

#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/linear/linear_tiles.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kMostParts = 8;  // blocks of a cluster that every Hopper GPU grants

int KBlockColumns(DType type) { return type == DType::kI4 ? 128 : 64; }
int PackedRows(int64_t rows) { return rows <= 64 ? 64 : rows <= 128 ? 128 : kTileRows; }

struct TilesPlan {
  int tiles;  // of 64 outputs, of a warp group
  int parts;  // of k
};

// What a cut takes by its bytes and products, as measured on an H200: how fast a multiprocessor multiplies, how fast it is
// fed from the L2 and how fast all are from memory, and what a block costs before its first and after its last k-block.
TilesPlan PlanTiles(const Device& device, const Weight& weight, int packed_rows) {
  constexpr double kCyclesPerSecond = 1.6e9, kProductShare = 0.75, kL2BytesPerSecond = 5e12, kBytesPerSecond = 3.4e12;
  constexpr double kBlockSeconds = 3.5e-6, kPartSeconds = 0.15e-6;
  const int multiprocessors = device.info().multiprocessors, subs = KBlockColumns(weight.dtype) / 64;
  const int64_t blocks = weight.cols / KBlockColumns(weight.dtype);
  TilesPlan best = {1, 1};
  double best_time = 0;
  for (int tiles = 1; tiles <= (packed_rows <= 128 ? 2 : 1); ++tiles) {
    for (int parts = 1; parts <= kMostParts && parts <= blocks; parts *= 2) {
      const int64_t grid = CeilDiv(weight.rows, 128 * tiles) * parts;
      const double at_once = static_cast<double>(std::min<int64_t>(grid, multiprocessors));
      const double codes = 128.0 * tiles * 64, x = 128.0 * subs * packed_rows;
      const double products = 2.0 * 4 * subs * tiles * (packed_rows / 2.0) / (kCyclesPerSecond * kProductShare);
      const double k_block =
          std::max({products, (codes + x) * at_once / kL2BytesPerSecond, codes * at_once / kBytesPerSecond});
      const double rounds = static_cast<double>(CeilDiv(grid, int64_t{multiprocessors}));
      const double time = rounds * (CeilDiv(blocks, int64_t{parts}) * k_block + kBlockSeconds + parts * kPartSeconds);
      if (best_time == 0 || time < best_time) best = {tiles, parts}, best_time = time;
    }
  }
  return best;
}

template <typename Codes, int kTiles, int kN>
void LaunchTiles(Device& device, TilesWork& work, View x, bf16* packed, int parts) {
  using Shape = TilesShape<Codes, kTiles, kN>;
  const Weight& weight = work.weight;
  work.blocks = static_cast<int>(weight.cols / Codes::kColumns);
  work.codes = ByteBoxMap(weight.data, weight.rows, int64_t{work.blocks} * 64, Shape::kOutputs);
  LaunchOverlapped(device, PackRows<Codes, kN>, dim3(CeilDiv(kN * work.blocks * Codes::kSteps, 256)), dim3(256), 0,
                   packed, x.as<bf16>(), x.stride, work.rows, work.blocks);
  const auto kernel = LinearTiles<Codes, kTiles, kN>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  const unsigned tiles = static_cast<unsigned>(CeilDiv(weight.rows, Shape::kOutputs));
  LaunchClusters(device, kernel, dim3(parts, tiles), parts, dim3(Shape::kThreads), Shape::kSharedBytes, work);
}
template <typename Codes>
void LaunchCodes(Device& device, TilesWork& work, View x, bf16* packed, const TilesPlan& plan) {
  switch (PackedRows(work.rows)) {
    case 64:
      if (plan.tiles == 1) return LaunchTiles<Codes, 1, 64>(device, work, x, packed, plan.parts);
      return LaunchTiles<Codes, 2, 64>(device, work, x, packed, plan.parts);
    case 128:
      if (plan.tiles == 1) return LaunchTiles<Codes, 1, 128>(device, work, x, packed, plan.parts);
      return LaunchTiles<Codes, 2, 128>(device, work, x, packed, plan.parts);
    default:
      return LaunchTiles<Codes, 1, kTileRows>(device, work, x, packed, plan.parts);
  }
}

}  // namespace

bool TiledLinearFits(const Device& device, const Weight& weight) {
  if (!IsHopper(device) || !IsCoded(weight.dtype) || weight.table != CodeTable::kNone) return false;
  const int lane_columns = KBlockColumns(weight.dtype) / 4;  // of one group
  return weight.cols % KBlockColumns(weight.dtype) == 0 && (weight.group == 0 || weight.group % lane_columns == 0) &&
         weight.rows <= int64_t{65535} * 128 && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
}

size_t TiledLinearScratchBytes(int64_t rows, const Weight& weight) {
  return Arena::Rounded(PackedRows(std::min<int64_t>(rows, kTileRows)) * weight.cols * sizeof(bf16));
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
  work.by_fours =
      out.stride % 4 == 0 && weight.rows % 4 == 0 && reinterpret_cast<uintptr_t>(out.data) % (work.out_float ? 16 : 8) == 0;
  work.rows = static_cast<int>(x.rows);
  const TilesPlan plan = PlanTiles(device, weight, PackedRows(x.rows));
  if (weight.dtype == DType::kI4) {
    LaunchCodes<TileCodes<DType::kI4, true>>(device, work, x, packed, plan);
  } else if (weight.dtype == DType::kF8E4M3) {
    LaunchCodes<TileCodes<DType::kF8E4M3, false>>(device, work, x, packed, plan);
  } else if (weight.group > 0) {
    LaunchCodes<TileCodes<DType::kI8, true>>(device, work, x, packed, plan);
  } else {
    LaunchCodes<TileCodes<DType::kI8, false>>(device, work, x, packed, plan);
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
