// The kernel behind linear_small.h: out^T [16 outputs x 8 rows] = W [16 x k] * x^T [k x 8] by mma.m16n8k16: weights are
// the A operand, so no row of the product is padding and a lane's weights are 16 consecutive bytes of two output rows.
// Which k sits in which fragment slot is free as long as x is laid out alike; x goes through shared memory in fragment
// order.
//
// Work is cut into units of (part of k, 16 outputs), dealt to two blocks a multiprocessor in equal runs; the eight
// warps of a block share a unit's k. Several parts are used when x would not fit or when 16-output tiles alone would
// leave blocks idle: the last part of a tile to arrive adds the others up in a fixed order.
#pragma once

#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/ops.h"

namespace duo::cuda {

// Two blocks of 8 warps a multiprocessor for up to 8 rows; one of 16 for more, whose x needs the room.
constexpr int WarpsFor(int eights) { return eights == 1 ? 8 : 16; }
constexpr int BlocksFor(int eights) { return eights == 1 ? 2 : 1; }

// What becomes of the products: rounded or not, or silu(gate) * up of a matrix that holds gate then up. A tile of the
// latter takes eight outputs of each half.
enum class SmallOut { kFloat, kActivation, kGated };

// A k-block: 16 bytes of codes in each lane, of two output rows. Int4 in groups smaller than 128 is read in pieces, so
// that a piece's four lanes lie in one group.
template <DType kType, int kGroup>
struct BlockShape {
  static constexpr int kBits = kType == DType::kI4 ? 4 : kType == DType::kBF16 || kType == DType::kF16 ? 16 : 8;
  static constexpr int kColumns = 4 * 128 / kBits;  // k's of a block: 32, 64 or 128
  static constexpr int kSteps = kColumns / 16;
  static constexpr int kPieces = kType == DType::kI4 ? 128 / kGroup : 1;
  static constexpr int kPieceBytes = 16 / kPieces;
  static constexpr int kStepsPerPiece = kSteps / kPieces;
  static constexpr int kDepth = kBits == 8 ? 8 : 4;  // k-blocks in flight per warp
  static constexpr int kUnits = kSteps / 2;          // 16-byte pieces of x per (row, lane quarter)
};

template <DType kType>
__device__ __forceinline__ uint32_t WeightPair(uint32_t word, int u) {
  if constexpr (kType == DType::kBF16) return word;
  if constexpr (kType == DType::kF16) {
    float low, high;
    asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b; }"
        : "=f"(low), "=f"(high)
        : "r"(word));
    return PackBf16(low, high);
  }
  if constexpr (kType == DType::kI4) return NibblesPlus128(word >> (4 * u));
  if constexpr (kType == DType::kF8E4M3) return F8HighBytes(u == 0 ? word << 8 : word);
  return SignedBytes(word >> (8 * u));
}

struct SmallArgs {
  void* out;
  int64_t out_stride;
  const bf16* x;
  int64_t x_stride;
  int rows;
  Weight weight;
  int tiles, parts, blocks;  // of 16 outputs; of k; k-blocks in all
  float* partial;            // [part][tile][256]
  uint32_t* arrivals;        // [tile]
};

// A part of k: its k-blocks, and which of them are a warp's. They are consecutive: a row's bytes are then read in
// order. Made once a part, not once a tile, for its divisions.
struct PartShare {
  int begin, blocks;  // of the part
  int first, count;   // of the warp, inside the part
  __device__ PartShare(const SmallArgs& args, int part, int warp) : begin(0), blocks(args.blocks) {
    const int warps = blockDim.x / 32;
    if (args.parts > 1) {
      begin = static_cast<int>(int64_t{args.blocks} * part / args.parts);
      blocks = static_cast<int>(int64_t{args.blocks} * (part + 1) / args.parts) - begin;
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

template <DType kType, int kGroup>
struct RawBlock {
  using S = BlockShape<kType, kGroup>;
  uint32_t w[2][4];
  uint32_t params[kType == DType::kI4 ? S::kPieces : 1][2];
};

template <DType kType, int kGroup, int kN, SmallOut kOut>
__global__ void __launch_bounds__(32 * WarpsFor(kN), BlocksFor(kN)) SmallLinearKernel(SmallArgs args) {
  using S = BlockShape<kType, kGroup>;
  constexpr int kWarps = WarpsFor(kN);
  constexpr int kTile = 16 * 8 * kN, kDepth = S::kDepth;
  extern __shared__ uint4 shared[];
  __shared__ float reduce[2][kWarps][kTile];
  __shared__ bool last_to_arrive;
  const Weight& weight = args.weight;
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const int units = args.tiles * args.parts;
  const int begin = static_cast<int>(int64_t{units} * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(int64_t{units} * (blockIdx.x + 1) / gridDim.x);
  if (begin == end) return;
  // Where a unit's weights lie for this lane: worked out once a unit, so that a load is an addition.
  struct Place {
    const uint8_t* codes[2];
    const uint32_t* params[2];
    int part, tile, blocks;  // blocks: of this warp
  };
  auto find = [&](int part, int tile, const PartShare& share) {
    Place place = {};
    place.part = part;
    place.tile = tile;
    place.blocks = share.count;
    const int64_t first = share.begin + share.first;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t at = TileRow<kOut>(weight.rows, tile, g + 8 * h) * args.blocks + first;
      place.codes[h] = static_cast<const uint8_t*>(weight.data) + at * 64;
      if constexpr (kType == DType::kI4) {
        place.params[h] = reinterpret_cast<const uint32_t*>(weight.groups) + at * S::kPieces;
      }
    }
    return place;
  };
  RawBlock<kType, kGroup> raw[kDepth];
  auto load = [&](RawBlock<kType, kGroup>& r, const Place& place, int index) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint8_t* codes = place.codes[h] + index * 64;
#pragma unroll
      for (int p = 0; p < S::kPieces; ++p) {
        LoadStreaming<S::kPieceBytes>(&r.w[h][p * S::kPieceBytes / 4], codes + (p * 4 + c) * S::kPieceBytes);
        if constexpr (kType == DType::kI4) r.params[p][h] = __ldg(place.params[h] + index * S::kPieces + p);
      }
    }
  };

  // x of a part, in fragment order: [block][unit of 16 bytes][row][lane quarter]; then sums of x per int4 group.
  const int rows = args.rows;
  float* x_sums =
      reinterpret_cast<float*>(shared + int64_t{(args.blocks + args.parts - 1) / args.parts} * S::kUnits * rows * 4);
  // Eight consecutive x make one 16-byte unit; the lanes that hold an int4 group's units add up its sum.
  auto stage = [&](const PartShare& share) {
    constexpr int kChunks = S::kColumns / 8, kUnitsPerPiece = S::kUnits / S::kPieces;
    constexpr int kGroupLanes = kType == DType::kI4 ? kGroup / 8 : 1;
    const int chunks = share.blocks * kChunks;
    for (int row = 0; row < rows; ++row) {
      const bf16* x = args.x + row * args.x_stride + int64_t{share.begin} * S::kColumns;
      // Whole warps go round together: the sums shuffle.
      for (int i = threadIdx.x; i < (chunks + 31) / 32 * 32; i += 32 * kWarps) {
        const int block = i / kChunks, chunk = i % kChunks;
        uint4 v = i < chunks ? *reinterpret_cast<const uint4*>(x + i * 8) : make_uint4(0, 0, 0, 0);
        if constexpr (kType == DType::kI4) {
          float sum = LowBf16(v.x) + HighBf16(v.x) + LowBf16(v.y) + HighBf16(v.y) + LowBf16(v.z) + HighBf16(v.z) +
                      LowBf16(v.w) + HighBf16(v.w);
#pragma unroll
          for (int lanes = 1; lanes < kGroupLanes; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
          if (i < chunks && i % kGroupLanes == 0) x_sums[i / kGroupLanes * rows + row] = sum;
          // A word holds codes 0-7; its pairs are (0, 4), (1, 5), (2, 6), (3, 7).
          v = {__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632), __byte_perm(v.y, v.w, 0x5410),
               __byte_perm(v.y, v.w, 0x7632)};
        } else if constexpr (S::kBits == 8) {  // a word holds codes 0-3; its pairs are (0, 2), (1, 3)
          v = {__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x5410),
               __byte_perm(v.z, v.w, 0x7632)};
        }
        if constexpr (kType == DType::kF8E4M3) {
          auto scaled = [](uint32_t pair) { return PackBf16(LowBf16(pair) * 0x1p64f, HighBf16(pair) * 0x1p64f); };
          v = {scaled(v.x), scaled(v.y), scaled(v.z), scaled(v.w)};
        }
        if (i >= chunks) continue;
        const int piece = chunk / (4 * kUnitsPerPiece), in_piece = chunk % (4 * kUnitsPerPiece);
        const int quarter = in_piece / kUnitsPerPiece, unit = piece * kUnitsPerPiece + in_piece % kUnitsPerPiece;
        shared[((block * S::kUnits + unit) * rows + row) * 4 + quarter] = v;
      }
    }
  };

  int staged = -1;
  const int first_part = args.parts == 1 ? 0 : begin / args.tiles;
  PartShare share(args, first_part, w), next_share = share;
  Place place = find(first_part, begin - first_part * args.tiles, share);
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (i < place.blocks) load(raw[i], place, i);
  }
  // The weights above do not depend on earlier kernels; x and everything written does.
  LetDependentsStart();
  WaitForDependency();
  for (int unit = begin; unit < end; ++unit) {
    const int part = place.part, tile = place.tile;
    if (part != staged) {
      __syncthreads();
      stage(share);
      __syncthreads();
      staged = part;
    }
    // What finishes this thread's output is fetched before the weights are waited for.
    const int row = threadIdx.x / 16, in_tile = threadIdx.x % 16;
    const int64_t output = TileRow<kOut>(weight.rows, tile, in_tile);
    const bool mine_to_write =
        static_cast<int>(threadIdx.x) < kTile && row < rows && TileHas<kOut>(weight.rows, tile, in_tile);
    float scale = 1, bias = 0;
    if (mine_to_write) {
      if constexpr (kType == DType::kF8E4M3 || kType == DType::kI8) scale = weight.scales[output];
      if (weight.bias != nullptr) bias = weight.bias[output];
    }
    float acc[kN][4] = {};
    const int mine = place.blocks;
    Place next = {};
    if (unit + 1 < end) {
      const bool new_part = tile + 1 == args.tiles;
      if (new_part) next_share = PartShare(args, part + 1, w);
      next = find(new_part ? part + 1 : part, new_part ? 0 : tile + 1, next_share);
    }
    // At least one round, so that a warp without blocks here still fetches those of the next unit.
    for (int base = 0; base == 0 || base < mine; base += kDepth) {
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        if (base + i < mine) {
          const int block = share.first + base + i;  // inside the part
#pragma unroll
          for (int p = 0; p < S::kPieces; ++p) {
            float part_sum[2][kN][4] = {};  // two chains of products
#pragma unroll
            for (int unit_in = p * S::kStepsPerPiece / 2; unit_in < (p + 1) * S::kStepsPerPiece / 2; ++unit_in) {
              uint4 b[kN];
#pragma unroll
              for (int n = 0; n < kN; ++n) {
                b[n] = 8 * n + g < rows ? shared[((block * S::kUnits + unit_in) * rows + 8 * n + g) * 4 + c]
                                        : make_uint4(0, 0, 0, 0);
              }
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                constexpr int kPairs = S::kBits == 16 ? 1 : S::kBits == 8 ? 2 : 4;
                const int r0 = unit_in * 4 + half * 2, r1 = r0 + 1;
                const uint32_t a0 = WeightPair<kType>(raw[i].w[0][r0 / kPairs], r0 % kPairs);
                const uint32_t a1 = WeightPair<kType>(raw[i].w[1][r0 / kPairs], r0 % kPairs);
                const uint32_t a2 = WeightPair<kType>(raw[i].w[0][r1 / kPairs], r1 % kPairs);
                const uint32_t a3 = WeightPair<kType>(raw[i].w[1][r1 / kPairs], r1 % kPairs);
#pragma unroll
                for (int n = 0; n < kN; ++n) {
                  float(&target)[kN][4] = kType == DType::kI4 ? part_sum[half] : acc;
                  Mma(target[n], a0, a1, a2, a3, half == 0 ? b[n].x : b[n].z, half == 0 ? b[n].y : b[n].w);
                }
              }
            }
            if constexpr (kType == DType::kI4) {
#pragma unroll
              for (int h = 0; h < 2; ++h) {
                const uint32_t bits = raw[i].params[p][h];
                const float scale = F16Value(bits);
                const float zero = F16Value(bits >> 16) - 128.0f * scale;
#pragma unroll
                for (int n = 0; n < kN; ++n) {
#pragma unroll
                  for (int j = 0; j < 2; ++j) {
                    const int row = 8 * n + 2 * c + j;
                    const float sum = row < rows ? x_sums[(block * S::kPieces + p) * rows + row] : 0.0f;
                    acc[n][2 * h + j] += scale * (part_sum[0][n][2 * h + j] + part_sum[1][n][2 * h + j]) + zero * sum;
                  }
                }
              }
            }
          }
        }
        // Refill the slot: from this unit, or in its last round from the next one.
        if (base + kDepth < mine) {
          if (base + kDepth + i < mine) load(raw[i], place, base + kDepth + i);
        } else if (i < next.blocks) {
          load(raw[i], next, i);
        }
      }
    }

    place = next;
    share = next_share;
    float(&buffer)[kWarps][kTile] = reduce[(unit - begin) % 2];
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        buffer[w][(8 * n + 2 * c + j % 2) * 16 + g + 8 * (j / 2)] = acc[n][j];  // [row][output]
      }
    }
    __syncthreads();
    float total = 0;
    if (mine_to_write) {
#pragma unroll
      for (int v = 0; v < kWarps; ++v) total += buffer[v][threadIdx.x];
    }
    bool write = mine_to_write;
    if (args.parts > 1) {
      float* slots = args.partial + int64_t{tile} * 256 + threadIdx.x;
      const int64_t stride = int64_t{args.tiles} * 256;
      if (mine_to_write) slots[part * stride] = total;
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        last_to_arrive = atomicInc(&args.arrivals[tile], args.parts - 1) == static_cast<uint32_t>(args.parts - 1);
      }
      __syncthreads();
      write = mine_to_write && last_to_arrive;
      if (write) {
        __threadfence();
        total = 0;
        for (int p = 0; p < args.parts; ++p) total += __ldcg(slots + p * stride);
      }
    }
    if constexpr (kType == DType::kF8E4M3) total *= 0x1p56f;
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
}

}  // namespace duo::cuda
