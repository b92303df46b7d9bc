// The kernel behind linear_scale_blocks.h: out^T [16 outputs x 8 rows] = W [16 x k] * x^T [k x 8] on tensor cores, W
// fp8 codes with a scale for each block of rows and columns. Units of work, parts of k and what becomes of a sum are
// linear_small.cuh's.
//
// A code becomes the f16 that it stands for, exactly, by one conversion for two (from sm_89 on). So x is f16 as well,
// scaled by a power of two that makes the largest of a row and a warp's share of k 2^14 to 2^15: nothing larger than
// 2^-29 of that is rounded. The sums of 64 columns, which have one scale, are scaled in f32 and added to the total: a
// multiply-add for each four products of tensor cores. Every row of x has a column of its own, so its bits do not
// depend on the rows beside it.
#pragma once

#include "kernels/cuda/linear/linear_small.cuh"

namespace duo::cuda {

constexpr int kScaledColumns = 64;  // of a k-block: 16 bytes of codes of an output in each lane quarter
constexpr int kScaledXBytes = kScaledColumns * 2;

struct ScaleBlocksArgs {
  SmallArgs small;
  int block_shift, group_shift;  // log2 of a scale's rows and k-blocks
  int across;                    // scales of a row
};

// Where a warp's share of k begins for a lane, in outputs g and g + 8 of a tile.
struct ScaledPlace {
  const uint8_t* codes[2];
  const float* scales[2];  // of the outputs' rows, from the first column on
  int first;               // k-block of the row
  int part, tile, blocks;  // blocks: of this warp
};

template <SmallOut kOut>
__device__ __forceinline__ ScaledPlace PlaceOfScaled(const ScaleBlocksArgs& args, int part, int tile,
                                                     const PartShare& share) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const Weight& weight = args.small.weight;
  ScaledPlace place = {};
  place.first = share.begin + share.first;
  place.part = part;
  place.tile = tile;
  place.blocks = share.count;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t row = TileRow<kOut>(weight.rows, tile, g + 8 * h);
    place.codes[h] =
        static_cast<const uint8_t*>(weight.data) + (row * args.small.blocks + place.first) * kScaledColumns + c * 16;
    place.scales[h] = weight.scales + (row >> args.block_shift) * args.across;
  }
  return place;
}

// A warp's k-blocks on their way from memory.
template <int kOfDepth>
struct ScaledRing {
  static constexpr int kDepth = kOfDepth;
  uint32_t codes[kDepth][2][4];

  // Block `block` of the share.
  __device__ __forceinline__ void Load(int slot, const ScaledPlace& place, int block) {
#pragma unroll
    for (int h = 0; h < 2; ++h) LoadStreaming<16>(codes[slot][h], place.codes[h] + block * kScaledColumns);
  }
};

// The f16 pairs of a word's codes 0 and 1, 2 and 3.
__device__ __forceinline__ void F8Pairs(uint32_t word, uint32_t& low, uint32_t& high) {
#if __CUDA_ARCH__ >= 890
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h; }"
      : "=r"(low), "=r"(high)
      : "r"(word));
#else
  // Sign, exponent and mantissa where f16 has them are the value times 2^-8.
  const auto pair = [](uint32_t high_bytes) {
    const uint32_t scaled = (high_bytes & 0x80008000u) | (high_bytes & 0x7f007f00u) >> 1;
    uint32_t of;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(of) : "r"(scaled), "r"(0x5c005c00u));  // 2^8
    return of;
  };
  low = pair(__byte_perm(word, 0, 0x1404));
  high = pair(__byte_perm(word, 0, 0x3424));
#endif
}

// The products of one tile and a warp's share of k. kRows: the most rows, 8 or 16.
template <int kRows>
class ScaledProducts {
 public:
  static constexpr int kEights = kRows / 8;

  // x: the share's first column, `blocks` k-blocks long. In shared memory [block][half][row][lane quarter] 16 bytes:
  // what meets two words of codes.
  __device__ __forceinline__ void Stage(const bf16* x, int64_t stride, int rows, int blocks, uint4* shared, int lane) {
    const int chunks = blocks * (kScaledColumns / 8);
    for (int r = 0; r < rows; ++r, x += stride) {
      // A NaN's or an infinity's exponent is the largest: the row's sums are none then, or wrong beside an infinity,
      // which no finite number is either.
      const float largest = __shfl_sync(0xffffffffu, LargestOf<1>(x, 0, 1, chunks, lane), 0);
      const uint32_t exponent = max(__float_as_uint(largest) >> 23, 15u);
      const float unit = __uint_as_float((exponent - 14) << 23), factor = __uint_as_float((268 - exponent) << 23);
#pragma unroll
      for (int n = 0; n < kEights; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if (8 * n + 2 * (lane % 4) + j == r) units_[n][j] = unit;
        }
      }
#pragma unroll 4
      for (int i = lane; i < chunks; i += 32) {
        const uint4 v = *reinterpret_cast<const uint4*>(x + i * 8);
        const auto scaled = [&](uint32_t pair) { return PackF16(LowBf16(pair) * factor, HighBf16(pair) * factor); };
        shared[(i / 8 * 2 + i % 2) * rows * 4 + r * 4 + i % 8 / 2] = {scaled(v.x), scaled(v.y), scaled(v.z),
                                                                      scaled(v.w)};
      }
    }
  }

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int n = 0; n < kEights; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) totals_[n][i] = 0;
    }
  }

  // Scales are few enough to be in the L1: asked for here they are there when the products are.
  template <typename Ring>
  __device__ __forceinline__ void Multiply(const Ring& ring, int slot, const ScaledPlace& place, int group_shift,
                                           const uint4* shared, int rows, int block, int lane) {
    const int g = lane / 4, c = lane % 4, scale_at = (place.first + block) >> group_shift;
    const float scales[2] = {__ldg(place.scales[0] + scale_at), __ldg(place.scales[1] + scale_at)};
    float sums[2][kEights][4] = {};  // two chains
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 b[kEights];
#pragma unroll
      for (int n = 0; n < kEights; ++n) {  // columns past the last row repeat it; nobody reads their sums
        b[n] = shared[((block * 2 + half) * rows + min(8 * n + g, rows - 1)) * 4 + c];
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t a0, a1, a2, a3;
        F8Pairs(ring.codes[slot][0][2 * half + j], a0, a2);
        F8Pairs(ring.codes[slot][1][2 * half + j], a1, a3);
#pragma unroll
        for (int n = 0; n < kEights; ++n) {
          MmaF16(sums[j][n], a0, a1, a2, a3, j == 0 ? b[n].x : b[n].z, j == 0 ? b[n].y : b[n].w);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kEights; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        totals_[n][i] = fmaf(scales[i / 2], sums[0][n][i] + sums[1][n][i], totals_[n][i]);
      }
    }
  }

  // sums [row][16 outputs]
  __device__ __forceinline__ void Store(float* sums, int lane) const {
#pragma unroll
    for (int n = 0; n < kEights; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 8 * n + 2 * (lane % 4) + i % 2;
        sums[row * 16 + lane / 4 + 8 * (i / 2)] = totals_[n][i] * units_[n][i % 2];
      }
    }
  }

 private:
  float totals_[kEights][4];
  float units_[kEights][2] = {};  // what 1 of a row's scaled x stands for
};

// kRows: the most rows. kBlocks: of a multiprocessor.
template <int kRows, SmallOut kOut, int kWarps, int kBlocks, int kDepth>
__global__ void __launch_bounds__(32 * kWarps, kBlocks) ScaleBlocksKernel(ScaleBlocksArgs all) {
  static_assert(32 * kWarps >= 16 * kRows);
  const SmallArgs& args = all.small;
  extern __shared__ uint4 shared[];
  __shared__ float reduce[2][kWarps][16 * kRows];
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
  const int units = args.tiles * args.parts;
  const auto [begin, end] = UnitsOfBlock(units);
  if (begin == end) return;

  // Every warp has its own x: the k's that it multiplies, of the part that it is in.
  const int rows = args.rows;
  const uint4* x = nullptr;
  ScaledProducts<kRows> products;
  auto stage = [&](const PartShare& share) {
    uint4* to = shared + share.first * rows * (kScaledXBytes / 16);
    const int64_t first = int64_t{share.begin} + share.first;
    products.Stage(args.x + first * kScaledColumns, args.x_stride, rows, share.count, to, lane);
    x = to;
  };

  int staged = -1;
  const int first_part = args.parts == 1 ? 0 : begin / args.tiles;
  PartShare share(args, first_part, w), next_share = share;
  ScaledPlace place = PlaceOfScaled<kOut>(all, first_part, begin - first_part * args.tiles, share);
  ScaledRing<kDepth> ring;
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (i < place.blocks) ring.Load(i, place, i);
  }
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
    const ThreadOutput<DType::kF8E4M3, 1, kOut, kRows> output(args, tile);
    products.Clear();
    ScaledPlace next = {};
    if (unit + 1 < end) {
      const bool new_part = tile + 1 == args.tiles;
      if (new_part) next_share = PartShare(args, part + 1, w);
      next = PlaceOfScaled<kOut>(all, new_part ? part + 1 : part, new_part ? 0 : tile + 1, next_share);
    }
    // A slot is refilled as soon as it was used, from this unit or in its last round from the next. At least one round,
    // so that a warp without blocks here still fetches those of the next unit.
    for (int base = 0; base == 0 || base < place.blocks; base += kDepth) {
      const bool last_round = base + kDepth >= place.blocks;
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        if (base + i < place.blocks) products.Multiply(ring, i, place, all.group_shift, x, rows, base + i, lane);
        if (!last_round) {
          if (base + kDepth + i < place.blocks) ring.Load(i, place, base + kDepth + i);
        } else if (i < next.blocks) {
          ring.Load(i, next, i);
        }
      }
    }
    place = next;
    share = next_share;
    float(&buffer)[kWarps][16 * kRows] = reduce[(unit - begin) % 2];
    products.Store(buffer[w], lane);
    __syncthreads();
    float total = 0;
    if (output.exists) {
#pragma unroll
      for (int v = 0; v < kWarps; ++v) total += buffer[v][threadIdx.x];
    }
    const bool whole = args.parts == 1 || AddParts(args, part, tile, output.exists, total);
    if (w * 32 < 16 * kRows) output.Store(args, total, output.exists && whole);
  }
}

}  // namespace duo::cuda
