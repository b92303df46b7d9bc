// The kernel behind linear_pieces.h: out^T [16 outputs x rows] = W [16 x k] * x^T [k x rows], W codes in groups, by the
// products of linear_pieces.cuh. Units of work, parts and what becomes of a sum are linear_small.cuh's.
#pragma once

#include "kernels/cuda/linear/linear_pieces.cuh"
#include "kernels/cuda/linear/linear_small.cuh"

namespace duo::cuda {

// Of a block's x: that of every warp's share, rounded up, behind the zeros that lanes without x read.
constexpr int kPieceLineBytes = 128;
template <DType kType>
__host__ __device__ constexpr size_t PieceSharedBytes(int blocks, int warps, int rows) {
  return kPieceLineBytes + size_t(blocks + warps * (PieceShape<kType>::kAtOnce - 1)) * rows * PieceX::Bytes<kType>();
}

template <typename Kind, SmallOut kOut>
__device__ __forceinline__ PiecePlace PlaceOfPieces(const SmallArgs& args, int part, int tile, const PartShare& share) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const int row_pieces = static_cast<int>(args.weight.cols) / Kind::Shape::kPieceColumns;
  const int first = (share.begin + share.first) * 4 + c;
  PiecePlace place = {};
  place.last = row_pieces - 1 - first;
  place.part = part;
  place.tile = tile;
  place.blocks = share.count;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const auto row = static_cast<uint32_t>(TileRow<kOut>(args.weight.rows, tile, g + 8 * h));
    place.first[h] = row * row_pieces + first;
  }
  return place;
}

// kRows: the most rows. kBlocks: of a multiprocessor. kParts: k may be cut into several. A kernel that has the code for
// that takes a tenth longer where it is not.
template <typename Kind, int kRows, SmallOut kOut, int kWarps, int kBlocks, bool kParts>
__global__ void __launch_bounds__(32 * kWarps, kBlocks) PiecesKernel(SmallArgs args, PieceWeights weights) {
  using S = typename Kind::Shape;
  static_assert(32 * kWarps >= 16 * kRows);
  extern __shared__ uint4 shared[];
  __shared__ float reduce[2][kWarps][kRows * 64];
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
  if constexpr (!kParts) args.parts = 1;
  const auto [begin, end] = UnitsOfBlock(args.tiles * args.parts);
  if (begin == end) return;

  // Every warp has its own x: the k's that it multiplies, of the part that it is in. A product of many outputs has few
  // registers and short shares.
  constexpr int kKept = kWarps == 4 ? 4 : 7;
  const int room = (CeilDiv(args.blocks, args.parts) + kWarps * (S::kAtOnce - 1)) * kRows;
  PieceProducts<Kind, kRows> products;
  PieceX x = {};
  x.zeros = shared + 1;
  auto stage = [&](const PartShare& share) {
    const int first_line = (share.first + w * (S::kAtOnce - 1)) * kRows;
    uint8_t* elements = reinterpret_cast<uint8_t*>(shared) + kPieceLineBytes;
    x.elements = elements + first_line * S::kXBytes;
    x.sums = reinterpret_cast<float*>(elements + room * S::kXBytes) + first_line * 4;
    const int column = (share.begin + share.first) * S::kColumns;
    const auto row = [&](int r) { return args.x + r * args.x_stride + column; };
    products.template Stage<kKept>(row, args.rows, share.count, max(0, static_cast<int>(args.weight.cols) - column), x,
                                   lane);
  };

  int part = kParts ? begin / args.tiles : 0, tile = begin - part * args.tiles;
  PartShare share(args, part, w, kWarps);
  PiecePlace place = PlaceOfPieces<Kind, kOut>(args, part, tile, share);
  PieceRing<Kind> ring;
#pragma unroll
  for (int i = 0; i < S::kDepth; ++i) {
    if (i < place.blocks) ring.Load(i, weights, place, i);
  }
  if (threadIdx.x < 2) shared[1 + threadIdx.x] = make_uint4(0, 0, 0, 0);
  // The weights above do not depend on earlier kernels; x and everything written does.
  LetDependentsStart();
  WaitForDependency();
  stage(share);
  __syncthreads();
  for (int unit = begin; unit < end; ++unit) {
    const ThreadOutput<Kind::kType, 1, kOut, kRows> output(args, tile);
    products.Clear();
    const bool new_part = kParts && tile + 1 == args.tiles;
    PiecePlace next = {};
    if (unit + 1 < end) {
      if (new_part) share = PartShare(args, part + 1, w, kWarps);
      next = PlaceOfPieces<Kind, kOut>(args, part + new_part, new_part ? 0 : tile + 1, share);
    }
    MultiplyPieces(products, ring, weights, place, next, x, lane);
    place = next;
    float(&buffer)[kWarps][kRows * 64] = reduce[(unit - begin) % 2];
    products.Store(buffer[w], lane);
    __syncthreads();
    float total = 0;
    if (output.exists) {
      const int first = output.row * 64 + output.in_tile;
#pragma unroll
      for (int v = 0; v < kWarps; ++v) {
        total += (buffer[v][first] + buffer[v][first + 16]) + (buffer[v][first + 32] + buffer[v][first + 48]);
      }
    }
    bool whole = true;
    if constexpr (kParts) whole = args.parts == 1 || AddParts(args, part, tile, output.exists, total);
    if (w * 32 < 16 * kRows) output.Store(args, total, output.exists && whole);
    if (new_part && unit + 1 < end) {
      // The barrier behind the last unit's sums says that every warp is done with the last part's x.
      stage(share);
      __syncwarp();
    }
    part += new_part;
    tile = new_part ? 0 : tile + 1;
  }
}

}  // namespace duo::cuda
