// The kernel behind linear_small.h: out^T [16 outputs x 8 rows] = W [16 x k] * x^T [k x 8] on tensor cores, by the
// products of linear_products.cuh.
//
// Work is cut into units of (part of k, 16 outputs), dealt to two blocks a multiprocessor in equal runs; the eight
// warps of a block share a unit's k. Several parts are used when x would not fit or when 16-output tiles alone would
// leave blocks idle: the last part of a tile to arrive adds the others up in a fixed order.
#pragma once

#include <type_traits>

#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/linear/linear_products.cuh"

namespace duo::cuda {

// Two blocks of 8 warps a multiprocessor for up to 8 rows; one of 16 for more, whose x needs the room.
constexpr int WarpsFor(int most_rows) { return most_rows <= 8 ? 8 : 16; }
constexpr int BlocksFor(int most_rows) { return most_rows <= 8 ? 2 : 1; }

// What becomes of the products: rounded or not, or silu(gate) * up of a matrix that holds gate then up. A tile of the
// latter takes eight outputs of each half.
enum class SmallOut { kFloat, kActivation, kGated };

struct SmallArgs {
  void* out;
  int64_t out_stride;
  const bf16* x;
  int64_t x_stride;
  int rows;
  Weight weight;
  int tiles, parts, blocks;  // of 16 outputs; of k; k-blocks in all
  int shares;                // of a part that a block takes at once: all of its warps', or fewer
  int pair_shift;            // groups of two levels: log2 of the k-blocks per pair
  float* partial;            // [part][tile][256], or of fewer shares at once [part][share][tile][128]
  uint32_t* arrivals;        // [tile]
};

// The units of a block: equal runs, the first ones longer where they do not come out even. By one division of 32 bits,
// for nothing is on its way from memory before it.
struct UnitRun {
  int begin, end;
};
__device__ __forceinline__ UnitRun UnitsOfBlock(int units) {
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const int each = units / blocks, more = units - each * blocks, begin = block * each + min(block, more);
  return {begin, begin + each + (block < more ? 1 : 0)};
}

// A part of k: its k-blocks, and which of them are a warp's. They are consecutive: a row's bytes are then read in
// order. Made once a part, not once a tile, for its divisions.
struct PartShare {
  int begin, blocks;  // of the part
  int first, count;   // of the warp, inside the part
  __device__ PartShare(const SmallArgs& args, int part, int warp)
      : PartShare(args, part, warp, static_cast<int>(blockDim.x / 32)) {}
  __device__ PartShare(const SmallArgs& args, int part, int warp, int warps) : begin(0), blocks(args.blocks) {
    if (args.parts > 1) {
      begin = args.blocks * part / args.parts;
      blocks = args.blocks * (part + 1) / args.parts - begin;
    }
    first = blocks * warp / warps;
    count = blocks * (warp + 1) / warps - first;
  }
};

// The matrix row of a tile's output (0-15); past the last one, the last one.
template <SmallOut kOut>
__device__ __forceinline__ int64_t TileRow(int64_t rows, int tile, int output) {
  if constexpr (kOut == SmallOut::kGated) {
    return min(int64_t{tile} * 8 + output % 8, rows / 2 - 1) + (output < 8 ? 0 : rows / 2);
  }
  return min(int64_t{tile} * 16 + output, rows - 1);
}
template <SmallOut kOut>
__device__ __forceinline__ bool TileHas(int64_t rows, int tile, int output) {
  if constexpr (kOut == SmallOut::kGated) return int64_t{tile} * 8 + output % 8 < rows / 2;
  return int64_t{tile} * 16 + output < rows;
}

template <DType kType, int kGroup, bool kTwo, SmallOut kOut>
__device__ __forceinline__ UnitPlace PlaceOf(const SmallArgs& args, int part, int tile, const PartShare& share) {
  using S = BlockShape<kType, kGroup>;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  UnitPlace place = {};
  place.part = part;
  place.tile = tile;
  place.blocks = share.count;
  if constexpr (kTwo) {
    place.first = share.begin + share.first;
    place.shift = args.pair_shift;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t row = TileRow<kOut>(args.weight.rows, tile, g + 8 * h);
    const int64_t block = row * args.blocks + share.begin + share.first;
    place.codes[h] = static_cast<const uint8_t*>(args.weight.data) + block * 64 + c * S::kPieceBytes;
    const auto* groups = reinterpret_cast<const uint32_t*>(args.weight.groups);
    if constexpr (kTwo) {
      place.params[h] = groups + row * (args.blocks >> args.pair_shift);
      place.subs[h] = reinterpret_cast<const uint32_t*>(args.weight.subs) + block * (S::kPieces / 2);
    } else if constexpr (S::kGrouped) {
      place.params[h] = groups + block * S::kPieces;
    }
  }
  return place;
}

// A warp's weights on their way from memory, kDepth k-blocks at a time.
template <DType kType, int kGroup, bool kTwo>
struct WeightPipe {
  static constexpr int kDepth = BlockShape<kType, kGroup>::kDepth;
  RawBlock<kType, kGroup> raw[kDepth];
  GroupParams<kType, kGroup, kTwo> params = {}, next_params = {};

  __device__ __forceinline__ void Start(const UnitPlace& place, int lane) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      if (i < place.blocks) raw[i].Load(place.codes, i);
    }
    params.Load(place, 0, place.blocks, lane % 4);
  }

  // Multiplies a unit. A slot is refilled as soon as it was used, from this unit or in its last round from `next`.
  template <typename Products>
  __device__ __forceinline__ void Multiply(Products& products, const UnitPlace& place, const UnitPlace& next,
                                           const SharedX& x, int rows, int lane) {
    const int mine = place.blocks, c = lane % 4;
    // At least one round, so that a warp without blocks here still fetches those of the next unit.
    for (int base = 0; base == 0 || base < mine; base += kDepth) {
      const bool last_round = base + kDepth >= mine;
      if (last_round) {
        next_params.Load(next, 0, next.blocks, c);
      } else {
        next_params.Load(place, base + kDepth, mine, c);
      }
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        if (base + i < mine) products.Multiply(raw[i], params, x, rows, base + i, i, lane);
        if (!last_round) {
          if (base + kDepth + i < mine) raw[i].Load(place.codes, base + kDepth + i);
        } else if (i < next.blocks) {
          raw[i].Load(next.codes, i);
        }
      }
      params = next_params;
    }
  }
};

// The output that a thread finishes in a unit, and what that takes: fetched before the weights are waited for.
template <DType kType, int kGroup, SmallOut kOut, int kRows>
struct ThreadOutput {
  int row, in_tile;
  int64_t output;
  bool exists;
  float scale = 1, bias = 0;

  __device__ __forceinline__ ThreadOutput(const SmallArgs& args, int tile) : ThreadOutput(args, tile, threadIdx.x) {}
  __device__ __forceinline__ ThreadOutput(const SmallArgs& args, int tile, int thread)
      : row(thread / 16), in_tile(thread % 16) {
    const Weight& weight = args.weight;
    output = TileRow<kOut>(weight.rows, tile, in_tile);
    exists = thread < 16 * kRows && row < args.rows && TileHas<kOut>(weight.rows, tile, in_tile);
    if (!exists) return;
    if constexpr (HasRowScales(kType) && kGroup == 0) scale = weight.scales[output];
    if (weight.bias != nullptr) bias = weight.bias[output];
  }

  __device__ __forceinline__ void Store(const SmallArgs& args, float total, bool write) const {
    total = total * scale + bias;
    if constexpr (kOut == SmallOut::kGated) {
      // Both halves rounded first, as a matrix product of many rows leaves them.
      const float value = ToFloat(ToBf16(total));
      const float up = __shfl_down_sync(0xffffffffu, value, 8);
      if (write && in_tile < 8) static_cast<bf16*>(args.out)[row * args.out_stride + output] = ToBf16(Silu(value) * up);
    } else if constexpr (kOut == SmallOut::kFloat) {
      if (write) static_cast<float*>(args.out)[row * args.out_stride + output] = total;
    } else {
      if (write) static_cast<bf16*>(args.out)[row * args.out_stride + output] = ToBf16(total);
    }
  }
};

// A part's sum becomes the tile's, the parts added up in their order, in the block whose part is the last to arrive. Is
// it this one? For all threads of a block.
__device__ __forceinline__ bool AddParts(const SmallArgs& args, int part, int tile, bool exists, float& total) {
  __shared__ bool last_to_arrive;
  float* slots = args.partial + int64_t{tile} * 256 + threadIdx.x;
  const int64_t stride = int64_t{args.tiles} * 256;
  if (exists) slots[part * stride] = total;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last_to_arrive = atomicInc(&args.arrivals[tile], args.parts - 1) == static_cast<uint32_t>(args.parts - 1);
  }
  __syncthreads();
  if (exists && last_to_arrive) {
    __threadfence();
    total = 0;
    for (int p = 0; p < args.parts; ++p) total += __ldcg(slots + p * stride);
  }
  return last_to_arrive;
}

// kRows: the most rows, 4 (int8 and int4 alone), 8 or 16.
template <DType kType, int kGroup, bool kTwo, int kRows, SmallOut kOut, bool kWide>
__global__ void __launch_bounds__(32 * WarpsFor(kRows), BlocksFor(kRows)) SmallLinearKernel(SmallArgs args) {
  using S = BlockShape<kType, kGroup>;
  using Products =
      std::conditional_t<S::kInteger, IntegerProducts<kType, kGroup, kTwo, kRows>, FloatProducts<kType, kRows, kWide>>;
  constexpr int kWarps = WarpsFor(kRows), kTile = 16 * kRows;
  extern __shared__ uint4 shared[];
  __shared__ float reduce[2][kWarps][kTile];
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
  const int units = args.tiles * args.parts;
  const auto [begin, end] = UnitsOfBlock(units);
  if (begin == end) return;

  // Every warp has its own x: the k's that it multiplies, of the part that it is in.
  const int rows = args.rows, most_blocks = CeilDiv(args.blocks, args.parts);
  Products products;
  SharedX x = {};
  auto stage = [&](const PartShare& share) {
    x.elements = reinterpret_cast<uint8_t*>(shared) + share.first * S::kXBytes * rows;
    x.sums = reinterpret_cast<float*>(reinterpret_cast<uint8_t*>(shared) + most_blocks * S::kXBytes * rows) +
             share.first * S::kXSums * rows;
    const int64_t first = int64_t{share.begin} + share.first;
    products.Stage(args.x + first * S::kColumns, args.x_stride, rows, share.count, x, lane);
  };

  int staged = -1;
  const int first_part = args.parts == 1 ? 0 : begin / args.tiles;
  PartShare share(args, first_part, w), next_share = share;
  UnitPlace place = PlaceOf<kType, kGroup, kTwo, kOut>(args, first_part, begin - first_part * args.tiles, share);
  WeightPipe<kType, kGroup, kTwo> pipe;
  pipe.Start(place, lane);
  // The weights above do not depend on earlier kernels; x and everything written does.
  LetDependentsStart();
  WaitForDependency();
  for (int unit = begin; unit < end; ++unit) {
    const int part = place.part, tile = place.tile;
    if (part != staged) {
      // The last part's x may lie there; the barrier behind its last unit's sums says that every warp is done with it.
      stage(share);
      __syncwarp();
      staged = part;
    }
    const ThreadOutput<kType, kGroup, kOut, kRows> output(args, tile);
    products.Clear();
    UnitPlace next = {};
    if (unit + 1 < end) {
      const bool new_part = tile + 1 == args.tiles;
      if (new_part) next_share = PartShare(args, part + 1, w);
      next = PlaceOf<kType, kGroup, kTwo, kOut>(args, new_part ? part + 1 : part, new_part ? 0 : tile + 1, next_share);
    }
    pipe.Multiply(products, place, next, x, rows, lane);
    place = next;
    share = next_share;
    float(&buffer)[kWarps][kTile] = reduce[(unit - begin) % 2];
    products.Store(buffer[w], lane);
    __syncthreads();
    float total = 0;
    if (output.exists) {
#pragma unroll
      for (int v = 0; v < kWarps; ++v) total += buffer[v][threadIdx.x];
    }
    const bool whole = args.parts == 1 || AddParts(args, part, tile, output.exists, total);
    output.Store(args, total, output.exists && whole);
  }
}

// What SmallLinearKernel makes of up to eight rows, to the bits of one, where x of all shares of a part is too much for
// a block: it takes args.shares of them at once, each of 8 / args.shares tiles, a warp each. The last of a tile's
// shares to arrive has them all added up in the order in which one block would.
template <DType kType, SmallOut kOut>
__global__ void __launch_bounds__(32 * WarpsFor(8), BlocksFor(8)) ShareLinearKernel(SmallArgs args) {
  using S = BlockShape<kType, 0>;
  using Products = std::conditional_t<S::kInteger, IntegerProducts<kType, 0, false, 8>, FloatProducts<kType, 8, true>>;
  constexpr int kWarps = WarpsFor(8), kTile = 16 * 8;
  extern __shared__ uint4 shared[];
  __shared__ bool last_to_arrive[kWarps];
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, rows = args.rows;
  const int at_once = args.shares, tiles_at_once = kWarps / at_once;  // powers of two
  const int share_groups = kWarps / at_once, tile_groups = CeilDiv(args.tiles, tiles_at_once);
  const int units = args.parts * share_groups * tile_groups;
  const auto [begin, end] = UnitsOfBlock(units);
  if (begin == end) return;

  // Warps of the same share have its x in common; `most` is room for the longest.
  const int most = CeilDiv(CeilDiv(args.blocks, args.parts), kWarps);
  const int first_tile_of_warp = w / at_once;
  Products products;
  SharedX x = {};
  x.elements = reinterpret_cast<uint8_t*>(shared) + w % at_once * most * S::kXBytes * rows;
  struct Unit {
    int part, share, group;  // share: the block's first
  };
  auto unit_at = [&](int unit) {
    const int of_share = unit / tile_groups;
    return Unit{of_share / share_groups, of_share % share_groups * at_once, unit % tile_groups};
  };
  auto place_of = [&](const Unit& unit, PartShare* share) {
    *share = PartShare(args, unit.part, unit.share + w % at_once, kWarps);
    return PlaceOf<kType, 0, false, kOut>(args, unit.part, unit.group * tiles_at_once + first_tile_of_warp, *share);
  };
  Unit unit = unit_at(begin);
  PartShare share(args, 0, 0, kWarps), next_share = share;
  UnitPlace place = place_of(unit, &share);
  WeightPipe<kType, 0, false> pipe;
  pipe.Start(place, lane);
  // The weights above do not depend on earlier kernels; x and everything written does.
  LetDependentsStart();
  WaitForDependency();
  int staged_part = -1, staged_share = -1;
  for (int at = begin; at < end; ++at) {
    if (unit.part != staged_part || unit.share != staged_share) {
      __syncthreads();  // every warp is done with the last one's
      // Warps of the same share lay out a part each; what else they learn of it each learns for itself.
      products.Stage(args.x + (int64_t{share.begin} + share.first) * S::kColumns, args.x_stride, rows, share.count, x,
                     lane, first_tile_of_warp, tiles_at_once);
      __syncthreads();
      staged_part = unit.part, staged_share = unit.share;
    }
    products.Clear();
    UnitPlace next = {};
    Unit next_unit = unit;
    if (at + 1 < end) next_unit = unit_at(at + 1), next = place_of(next_unit, &next_share);
    pipe.Multiply(products, place, next, x, rows, lane);
    const int first_tile = unit.group * tiles_at_once, tile = place.tile;
    const int64_t stride = int64_t{args.tiles} * kTile;  // between shares
    if (tile < args.tiles) {
      const int64_t number = int64_t{unit.part} * kWarps + unit.share + w % at_once;
      products.Store(args.partial + number * stride + int64_t{tile} * kTile, lane);
    }
    __threadfence();
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < tiles_at_once && first_tile + static_cast<int>(threadIdx.x) < args.tiles) {
      const uint32_t all = args.parts * share_groups;
      last_to_arrive[threadIdx.x] = atomicInc(&args.arrivals[first_tile + threadIdx.x], all - 1) == all - 1;
    }
    __syncthreads();
    for (int i = w / 4; i < tiles_at_once && first_tile + i < args.tiles; i += kWarps / 4) {
      if (!last_to_arrive[i]) continue;
      __threadfence();
      const ThreadOutput<kType, 0, kOut, 8> output(args, first_tile + i, threadIdx.x % kTile);
      const float* from = args.partial + int64_t{first_tile + i} * kTile + threadIdx.x % kTile;
      float total = 0;
      for (int part = 0; part < args.parts && output.exists; ++part, from += kWarps * stride) {
        float sums[kWarps], of_part = 0;
#pragma unroll
        for (int v = 0; v < kWarps; ++v) sums[v] = __ldcg(from + v * stride);
#pragma unroll
        for (int v = 0; v < kWarps; ++v) of_part += sums[v];
        total += of_part;
      }
      output.Store(args, total, output.exists);
    }
    unit = next_unit;
    place = next;
    share = next_share;
  }
}

}  // namespace duo::cuda
