#include <algorithm>
#include <bit>

#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/experts/grouped_rows.h"
#include "kernels/cuda/experts/grouped_tiles.cuh"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/linear/linear_tiles.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// out [rows, dim] = sum over a row's slots of weight * y, in the order of the slots; kPartial: over slots whose expert
// is in `run`. A thread has eight columns. Grid: rows, blocks of columns.
template <bool kPartial>
__global__ void CombineEightsKernel(bf16* out, int64_t stride, const bf16* y, Routing routing, const int32_t* places,
                                    int dim, ExpertRun run) {
  StartOverlapped();
  const int64_t first = int64_t{blockIdx.x} * routing.chosen;
  const int c = 8 * (blockIdx.y * blockDim.x + threadIdx.x);
  if (c >= dim) return;
  float sums[8] = {};
#pragma unroll 8
  for (int j = 0; j < routing.chosen; ++j) {
    if constexpr (kPartial) {
      if (!run.Has(routing.experts[first + j])) continue;
    }
    const float weight = routing.weights[first + j];
    const uint4 of = __ldcs(reinterpret_cast<const uint4*>(y + int64_t{places[first + j]} * dim + c));
    const uint32_t words[4] = {of.x, of.y, of.z, of.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[2 * i] = fmaf(weight, LowBf16(words[i]), sums[2 * i]);
      sums[2 * i + 1] = fmaf(weight, HighBf16(words[i]), sums[2 * i + 1]);
    }
  }
  uint2* to = reinterpret_cast<uint2*>(out + blockIdx.x * stride + c);
  to[0] = {PackBf16(sums[0], sums[1]), PackBf16(sums[2], sums[3])};
  to[1] = {PackBf16(sums[4], sums[5]), PackBf16(sums[6], sums[7])};
}

template <bool kUp, int kLevels>
void Launch(Device& device, const GroupedWork& work, int64_t most_tiles) {
  using Shape = GroupedShape<kUp>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(GroupedTiles<kUp, kLevels>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      Shape::kSharedBytes));
  const int64_t most = std::min<int64_t>(most_tiles * work.units, device.info().multiprocessors);
  LaunchOverlapped(device, GroupedTiles<kUp, kLevels>, dim3(static_cast<unsigned>(most)), dim3(Shape::kThreads),
                   Shape::kSharedBytes, work);
}

// work: what does not follow from the bank.
template <bool kUp>
void Multiply(Device& device, GroupedWork work, const Weight& bank, int experts, int64_t most_tiles) {
  using Shape = GroupedShape<kUp>;
  work.codes = ByteBoxMap(bank.data, bank.rows, bank.cols / 2, Shape::kBoxRows);
  work.bank = bank;
  work.experts = experts;
  work.units = static_cast<int>(bank.rows / experts / Shape::kOutputs);
  work.blocks = static_cast<int>(bank.cols / 128);
  work.pair_shift = std::countr_zero(static_cast<unsigned>(bank.pair_cols()));
  work.group_shift = std::countr_zero(static_cast<unsigned>(bank.group));
  if (bank.block > 0) {
    Launch<kUp, 2>(device, work, most_tiles);
  } else {
    Launch<kUp, 1>(device, work, most_tiles);
  }
}

bool BankFits(const Device& device, const Weight& bank) {
  return bank.dtype == DType::kI4 && bank.table == CodeTable::kNone && bank.cols > 0 && bank.cols % 128 == 0 &&
         bank.rows < int64_t{1} << 31 && TiledLinearFits(device, bank);
}

}  // namespace

bool GroupedRowsFit(const Device& device, const ExpertBank& bank) {
  return BankFits(device, bank.gate_up) && BankFits(device, bank.down);
}
bool GroupedRowsFit(View out, View x) {
  return x.stride % 4 == 0 && out.stride % 4 == 0 && reinterpret_cast<uintptr_t>(x.data) % 8 == 0 &&
         reinterpret_cast<uintptr_t>(out.data) % 8 == 0;
}

size_t GroupedRowsScratchBytes(int64_t rows, const ExpertBank& bank, int chosen) {
  const int64_t slots = rows * chosen, places = MostPlaces(slots, bank.experts), dim = bank.gate_up.cols;
  return SortSlotsScratchBytes(slots, bank.experts) + Arena::Rounded(sizeof(bf16) * places * dim) +
         Arena::Rounded(sizeof(bf16) * places * bank.down.cols) + Arena::Rounded(sizeof(bf16) * places * dim);
}

void GroupedRows(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch) {
  const int64_t slots = x.rows * routing.chosen, places = MostPlaces(slots, bank.experts),
                tiles = MostTiles(slots, bank.experts);
  const int dim = static_cast<int>(x.cols);
  const ExpertRun run = {bank.first, bank.experts};
  const SortedSlots sorted = SortSlots(device, routing, x.rows, run, scratch);
  auto* packed = static_cast<bf16*>(scratch.Take(sizeof(bf16) * places * dim));
  auto* product = static_cast<bf16*>(scratch.Take(sizeof(bf16) * places * bank.down.cols));
  auto* y = static_cast<bf16*>(scratch.Take(sizeof(bf16) * places * dim));
  LaunchOverlapped(device, PackSlotsKernel, dim3(static_cast<unsigned>(tiles), 8), dim3(256), 0, packed, x.as<bf16>(),
                   x.stride, sorted, routing.chosen, dim);
  GroupedWork work = {};
  work.tiles = sorted.tiles;
  work.tile_count = sorted.count;
  work.x = packed;
  work.out = product;
  work.gating = {bank.limit, bank.alpha};
  Multiply<true>(device, work, bank.gate_up, bank.experts, tiles);
  work.x = product;
  work.out = y;
  Multiply<false>(device, work, bank.down, bank.experts, tiles);
  const int threads = 128;
  LaunchOverlapped(device, bank.partial() ? CombineEightsKernel<true> : CombineEightsKernel<false>,
                   dim3(static_cast<unsigned>(x.rows), CeilDiv(dim / 8, threads)), dim3(threads), 0, out.as<bf16>(),
                   out.stride, static_cast<const bf16*>(y), routing, static_cast<const int32_t*>(sorted.places), dim,
                   run);
}

}  // namespace duo::cuda
