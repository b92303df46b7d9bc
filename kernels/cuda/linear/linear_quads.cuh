// Codes in groups times 3 to 8 rows of x: the sums of linear_pieces.cuh, to their bits, with a quarter of its products.
//
// There each of four lanes has a piece of its own and x is zero where the others' are. Here the four lanes exchange
// words of their pieces first, so that each has a word of every piece: a product of the tensor cores is then one
// piece's, of four rows of x (the high and the low bytes of each are two columns), and no column is zero. Whole numbers
// are exact however they are summed up; they are scaled and added in the order of linear_pieces.cuh, piece of four by
// piece of four, share by share of k, part by part, which its plan cuts.
//
// x of so many rows and of a whole part does not always fit a block. Then the block takes some of the part's shares at
// once, for more tiles, and the last of a tile's shares to arrive adds them all up.
#pragma once

#include "kernels/cuda/linear/linear_pieces_kernel.cuh"

namespace duo::cuda {

constexpr int kQuadWarps = 8, kQuadBlocks = 2;  // of a block; of a multiprocessor

// The products of one tile and a warp's share of k. kRows: the most rows, 4 or 8.
template <typename Kind, int kRows>
class QuadProducts {
 public:
  using S = typename Kind::Shape;
  static constexpr int kFours = kRows / 4;  // eight columns of B
  static constexpr int kFourBytes = 4 * S::kXBytes;
  static constexpr bool kWords = Kind::kType == DType::kI8;  // a lane has one word of x of each piece, else two

  // `rows` rows from `first_row` on of a share of `blocks`, of which `columns` exist; x is row 0's first column. They
  // lie [block][four of rows][two pieces][column of B][word][piece][8 bytes], of int8 [block][four of rows][column of
  // B][word][piece][4 bytes]; their units go to units[row]. Every row is scaled so that its largest |x| of the share
  // becomes kMostFixed.
  static __device__ __forceinline__ void Stage(const bf16* x, int64_t stride, int first_row, int rows, int blocks,
                                               int columns, const PieceX& shared, float* units, int lane) {
    const int padded = RoundUp(blocks, S::kAtOnce) * S::kChunks, there = min(blocks * S::kChunks, columns / 8);
#pragma unroll 1
    for (int four = 0; four < rows; four += 4) {
      const int count = min(4, rows - four);
      const bf16* of_four = x + (first_row + four) * stride;
      const float unit = FixedUnit(LargestOf<4>(of_four, stride, count, there, lane));  // of row lane % 4
      if (lane < count) units[first_row + four + lane] = unit;
#pragma unroll 2
      for (int i = 0; i < count; ++i) {
        const float factor = 1 / __shfl_sync(0xffffffffu, unit, i);
        StageRow(of_four + i * stride, first_row + four + i, there, padded, factor, shared, lane);
      }
    }
  }
  __device__ __forceinline__ void TakeUnits(const float* units, int lane) {
#pragma unroll
    for (int n = 0; n < kFours; ++n) units_[n] = units[4 * n + lane % 4];
  }

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
#pragma unroll
      for (int piece = 0; piece < 4; ++piece) sums_[n][piece][0] = sums_[n][piece][1] = 0;
    }
  }

  // kAtOnce blocks, the first of which is block `block` of the share and in slot `slot` of the ring.
  __device__ __forceinline__ void Multiply(const PieceRing<Kind>& ring, int slot, const PieceX& shared, int block,
                                           int lane) {
#pragma unroll
    for (int i = 0; i < S::kAtOnce; ++i) One(ring, slot + i, shared, block + i, lane);
  }

  // The share's sums of all rows that the kernel is made for: sums [row][16 outputs].
  __device__ __forceinline__ void Store(float* sums, int lane) const {
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float of[4];  // rounded each, as where they meet in shared memory
#pragma unroll
        for (int piece = 0; piece < 4; ++piece) of[piece] = __fmul_rn(sums_[n][piece][h], units_[n]);
        sums[(4 * n + lane % 4) * 16 + lane / 4 + 8 * h] = __fadd_rn(__fadd_rn(of[0], of[1]), __fadd_rn(of[2], of[3]));
      }
    }
  }

 private:
  static constexpr uint32_t kNibbles = 0x0f0f0f0fu;

  static __device__ __forceinline__ void StageRow(const bf16* x, int row, int there, int padded, float factor,
                                                  const PieceX& shared, int lane) {
    const int four = row / 4, column = 2 * (row % 4);
    // Whole warps go round together: the sums shuffle.
#pragma unroll 4
    for (int i = lane; i < RoundUp(padded, 32); i += 32) {
      const uint4 v = i < there ? *reinterpret_cast<const uint4*>(x + i * 8) : make_uint4(0, 0, 0, 0);
      uint2 high, low;
      int sum = FixedEight<Kind::kXType>(v, factor, high, low);
#pragma unroll
      for (int lanes = 1; lanes < S::kSteps; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      if (i >= padded) continue;
      const int block = i / S::kChunks, piece = i % S::kChunks / S::kSteps, in_piece = i % S::kSteps;
      if (in_piece == 0) shared.sums[(block * kRows + row) * 4 + piece] = static_cast<float>(sum);
      uint8_t* to = shared.elements + (block * kFours + four) * kFourBytes + column * 64;
      if constexpr (kWords) {
        to += in_piece * 32 + piece * 4;
        *reinterpret_cast<uint32_t*>(to) = high.x;
        *reinterpret_cast<uint32_t*>(to + 16) = high.y;
        *reinterpret_cast<uint32_t*>(to + 64) = low.x;
        *reinterpret_cast<uint32_t*>(to + 80) = low.y;
      } else {
        to += piece / 2 * 512 + in_piece * 16 + piece % 2 * 8;
        *reinterpret_cast<uint2*>(to) = high;
        *reinterpret_cast<uint2*>(to + 64) = low;
      }
    }
  }

  // Word k of the lane's piece c -> word c of piece k, among the four lanes of a g.
  static __device__ __forceinline__ void Exchange(uint32_t (&w)[4], int lane) {
    const bool odd = lane & 1, upper = lane & 2;
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
      const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? w[k] : w[k + 1], 1);
      w[k] = odd ? got : w[k];
      w[k + 1] = odd ? w[k + 1] : got;
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const uint32_t got = __shfl_xor_sync(0xffffffffu, upper ? w[k] : w[k + 2], 2);
      w[k] = upper ? got : w[k];
      w[k + 2] = upper ? w[k + 2] : got;
    }
  }

  static __device__ __forceinline__ void Step(int (&products)[4], uint32_t w0, uint32_t w1, uint32_t b0, uint32_t b1) {
    if constexpr (Kind::kTable != CodeTable::kNone) {
      const NumberSums n0 = EightNumbers<Kind::kTable>(w0), n1 = EightNumbers<Kind::kTable>(w1);
      MmaS8(products, n0.a[0], n1.a[0], n0.a[1], n1.a[1], b0, b1);
      MmaS8(products, n0.b[0], n1.b[0], n0.b[1], n1.b[1], b0, b1);
    } else if constexpr (Kind::kType == DType::kI4) {
      MmaU8S8(products, w0 & kNibbles, w1 & kNibbles, w0 >> 4 & kNibbles, w1 >> 4 & kNibbles, b0, b1);
    } else {
      MmaS8Short(products, w0, w1, b0);
    }
  }

  __device__ __forceinline__ void One(const PieceRing<Kind>& ring, int slot, const PieceX& shared, int block,
                                      int lane) {
    uint32_t w[2][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int k = 0; k < 4; ++k) w[h][k] = ring.codes[slot][h][k];
      Exchange(w[h], lane);
    }
    const float2 own[2] = {ring.Scale(slot, 0), ring.Scale(slot, 1)};  // of the lane's own piece
    const auto* from = reinterpret_cast<const uint4*>(shared.elements + block * kFours * kFourBytes) + lane;
    const float* x_sums = shared.sums + (block * kRows + lane % 4) * 4;
#pragma unroll
    for (int two = 0; two < 2; ++two) {
      int products[2][kFours][4] = {};
#pragma unroll
      for (int n = 0; n < kFours; ++n) {
        if constexpr (kWords) {
          const uint2 b = reinterpret_cast<const uint2*>(from + n * 32)[two];
          Step(products[0][n], w[0][2 * two], w[1][2 * two], b.x, 0);
          Step(products[1][n], w[0][2 * two + 1], w[1][2 * two + 1], b.y, 0);
        } else {
          const uint4 b = from[(n * 2 + two) * 32];
          Step(products[0][n], w[0][2 * two], w[1][2 * two], b.x, b.y);
          Step(products[1][n], w[0][2 * two + 1], w[1][2 * two + 1], b.z, b.w);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int piece = 2 * two + i;
        float2 scale[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          scale[h].x = __shfl_sync(0xffffffffu, own[h].x, piece, 4);
          scale[h].y = __shfl_sync(0xffffffffu, own[h].y, piece, 4);
        }
#pragma unroll
        for (int n = 0; n < kFours; ++n) {
          const float x_sum = x_sums[4 * n * 4 + piece];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float product = static_cast<float>(256 * products[i][n][2 * h] + products[i][n][2 * h + 1]);
            float& sum = sums_[n][piece][h];
            sum = fmaf(scale[h].x, product, fmaf(scale[h].y, x_sum, sum));
          }
        }
      }
    }
  }

  float sums_[kFours][4][2];  // of rows 4 n + c: piece of four, outputs g, g + 8
  float units_[kFours] = {};  // what 1 of a row's fixed point stands for
};

// Of a block that takes `shares` of a part's at once, each of `most` blocks at most.
template <typename Kind>
constexpr size_t QuadSharedBytes(int shares, int most, int rows) {
  return size_t(shares) * RoundUp(most, Kind::Shape::kAtOnce) * rows * PieceX::Bytes<Kind::kType>();
}

// plan_warps: the warps of linear_pieces.cu's blocks, which share a part's k. kRows: 4 or 8, the most rows. kWhole: k
// is one part, and blocks take all of its shares: x is then laid out once and no sum is another block's to finish.
template <typename Kind, int kRows, SmallOut kOut, bool kWhole>
__global__ void __launch_bounds__(32 * kQuadWarps, kQuadBlocks)
    QuadsKernel(SmallArgs args, PieceWeights weights, int plan_warps) {
  using S = typename Kind::Shape;
  constexpr int kOutputs = 16 * kRows;
  extern __shared__ uint4 shared[];
  __shared__ float reduce[2][kQuadWarps][kOutputs];
  __shared__ float units_of_x[kQuadWarps][kRows];
  __shared__ bool last_to_arrive[kQuadWarps];
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
  // A team is the warps that share a tile, one for each of the shares that the block takes at once.
  if constexpr (kWhole) args.parts = 1, args.shares = plan_warps;
  const int shares = args.shares, teams = kQuadWarps / shares, team = w / shares, in_team = w - team * shares;
  const int share_groups = kWhole ? 1 : plan_warps / shares, tile_groups = CeilDiv(args.tiles, teams);
  const int units = args.parts * share_groups * tile_groups;
  const auto [begin, end] = UnitsOfBlock(units);
  if (begin == end) return;
  const auto team_sync = [&] { asm volatile("bar.sync %0, %1;" ::"r"(1 + team), "r"(32 * shares) : "memory"); };

  struct Unit {
    int part, share, group;  // share: the block's first
  };
  auto unit_at = [&](int unit) {
    if constexpr (kWhole) return Unit{0, 0, unit};
    const int of_share = unit / tile_groups;
    return Unit{of_share / share_groups, of_share % share_groups * shares, unit % tile_groups};
  };
  auto place_of = [&](const Unit& unit, PartShare* share) {
    *share = PartShare(args, unit.part, unit.share + in_team, plan_warps);
    return PlaceOfPieces<Kind, kOut>(args, unit.part, unit.group * teams + team, *share);
  };
  const int lines = RoundUp(CeilDiv(CeilDiv(args.blocks, args.parts), plan_warps), S::kAtOnce);
  PieceX x = {};
  x.elements = reinterpret_cast<uint8_t*>(shared) + in_team * lines * kRows * S::kXBytes;
  x.sums = reinterpret_cast<float*>(reinterpret_cast<uint8_t*>(shared) + shares * lines * kRows * S::kXBytes) +
           in_team * lines * kRows * 4;

  Unit unit = unit_at(begin);
  PartShare share(args, 0, 0, plan_warps), next_share = share;
  PiecePlace place = place_of(unit, &share);
  QuadProducts<Kind, kRows> products;
  PieceRing<Kind> ring;
#pragma unroll
  for (int i = 0; i < S::kDepth; ++i) {
    if (i < place.blocks) ring.Load(i, weights, place, i);
  }
  // The weights above do not depend on earlier kernels; x and everything written does.
  LetDependentsStart();
  WaitForDependency();
  int staged_part = -1, staged_share = -1;
  const int first_row = args.rows * team / teams, last_row = args.rows * (team + 1) / teams;  // that this warp stages
  const auto stage = [&] {
    const int column = (share.begin + share.first) * S::kColumns;
    products.Stage(args.x + column, args.x_stride, first_row, last_row - first_row, share.count,
                   max(0, static_cast<int>(args.weight.cols) - column), x, units_of_x[in_team], lane);
    __syncthreads();
    products.TakeUnits(units_of_x[in_team], lane);
  };
  if constexpr (kWhole) stage();
  for (int at = begin; at < end; ++at) {
    if (!kWhole && (unit.part != staged_part || unit.share != staged_share)) {
      __syncthreads();  // every warp is done with the last one's
      stage();
      staged_part = unit.part, staged_share = unit.share;
    }
    products.Clear();
    PiecePlace next = {};
    Unit next_unit = unit;
    if (at + 1 < end) next_unit = unit_at(at + 1), next = place_of(next_unit, &next_share);
    MultiplyPieces(products, ring, weights, place, next, x, lane);
    const int tile = place.tile, in_place = w * 32 + lane - team * shares * 32;
    const int64_t stride = int64_t{args.tiles} * kOutputs;  // between shares, or parts
    float* partial = args.partial + int64_t{tile} * kOutputs;
    const bool exists = tile < args.tiles, whole = kWhole || share_groups == 1;
    float(&buffer)[kQuadWarps][kOutputs] = reduce[(at - begin) % 2];
    if (whole) {
      products.Store(buffer[w], lane);
      team_sync();
    } else if (exists) {
      products.Store(partial + (int64_t{unit.part} * plan_warps + unit.share + in_team) * stride, lane);
    }
    const auto of_part = [&](int i) {
      float total = 0;
      for (int v = 0; v < shares; ++v) total += buffer[team * shares + v][i];
      return total;
    };
    bool last = true;
    if (!kWhole && (!whole || args.parts > 1)) {
      if (whole && exists) {
        for (int i = in_place; i < kOutputs; i += 32 * shares) partial[unit.part * stride + i] = of_part(i);
      }
      __threadfence();
      team_sync();
      if (in_place == 0 && exists) {
        const uint32_t all = args.parts * share_groups;
        last_to_arrive[team] = atomicInc(&args.arrivals[tile], all - 1) == all - 1;
      }
      team_sync();
      last = last_to_arrive[team];
      if (last) __threadfence();
    }
    for (int i = in_place; exists && last && i < kOutputs; i += 32 * shares) {
      const ThreadOutput<Kind::kType, 1, kOut, kRows> output(args, tile, i);
      float total = 0;
      if (kWhole || (whole && args.parts == 1)) {
        total = of_part(i);
      } else if (whole) {
        for (int part = 0; part < args.parts; ++part) total += __ldcg(partial + part * stride + i);
      } else {
        const float* from = partial + i;
        for (int part = 0; part < args.parts; ++part, from += plan_warps * stride) {
          float sum = 0;
#pragma unroll 4
          for (int v = 0; v < plan_warps; ++v) sum += __ldcg(from + v * stride);
          total = args.parts == 1 ? sum : total + sum;
        }
      }
      output.Store(args, total, output.exists);
    }
    unit = next_unit;
    place = next;
    share = next_share;
  }
}

}  // namespace duo::cuda
