// Tiles of the flash kernel and of its gradient: rows of head_dim bf16 in shared memory, swizzled by 16-byte pieces
// (primitives.cuh), the three products that a warp makes of them, 16 rows at a time, and the cut of keys into tiles.
#pragma once

#include "kernels/base/math.h"
#include "kernels/cuda/primitives.cuh"

namespace duo::cuda {

// Copies rows [first, first + kRows) of head_dim elements to a tile in shared memory; zeros from `limit` on.
template <int kHeadDim, int kRows, int kThreads>
__device__ __forceinline__ void LoadRows(uint32_t tile, const bf16* from, int64_t stride, int64_t first,
                                         int64_t limit) {
  constexpr int kPieces = kHeadDim / 8;
#pragma unroll
  for (int i = threadIdx.x; i < kRows * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces;
    const bool valid = first + row < limit;
    CopyAsync16(Swizzled<kHeadDim>(tile, row, piece), from + (valid ? first + row : 0) * stride + piece * 8, valid);
  }
}

// Fragments of 16 rows of a tile as the left factor, columns [16 step, 16 step + 16).
template <int kHeadDim>
__device__ __forceinline__ void LoadLeft(uint32_t (&a)[4], uint32_t tile, int row, int step, int lane) {
  LoadMatrix4(a, Swizzled<kHeadDim>(tile, row + (lane & 15), step * 2 + (lane >> 4)));
}
// c [16 x 16] += a times the transpose of the tile's rows [row, row + 16).
template <int kHeadDim>
__device__ __forceinline__ void MmaTransposed(float (&c0)[4], float (&c1)[4], const uint32_t (&a)[4], uint32_t tile,
                                              int row, int step, int lane) {
  uint32_t b[4];
  LoadMatrix4(b, Swizzled<kHeadDim>(tile, row + (lane & 7) + (lane >> 4) * 8, step * 2 + ((lane >> 3) & 1)));
  Mma(c0, a[0], a[1], a[2], a[3], b[0], b[1]);
  Mma(c1, a[0], a[1], a[2], a[3], b[2], b[3]);
}
// c [16 x head_dim] += x [16 x 8 kEighths], rounded to bf16, times as many of the tile's rows, from `row` on.
template <int kHeadDim, int kEighths>
__device__ __forceinline__ void MmaRounded(float (&c)[kHeadDim / 8][4], const float (&x)[kEighths][4], uint32_t tile,
                                           int row, int lane) {
#pragma unroll
  for (int step = 0; step < kEighths / 2; ++step) {
    const float(&low)[4] = x[2 * step], (&high)[4] = x[2 * step + 1];
    const uint32_t a0 = PackBf16(low[0], low[1]), a1 = PackBf16(low[2], low[3]);
    const uint32_t a2 = PackBf16(high[0], high[1]), a3 = PackBf16(high[2], high[3]);
#pragma unroll
    for (int n = 0; n < kHeadDim / 16; ++n) {
      uint32_t b[4];
      LoadMatrix4Transposed(b, Swizzled<kHeadDim>(tile, row + step * 16 + (lane & 15), n * 2 + (lane >> 4)));
      Mma(c[2 * n], a0, a1, a2, a3, b[0], b[1]);
      Mma(c[2 * n + 1], a0, a1, a2, a3, b[2], b[3]);
    }
  }
}

// The two ranges of keys that hold all that rows at positions [low, high] may see (Ranges of streaming_keys.cuh and its
// like), cut into tiles of kKeys: those of the first range, then those of the second.
template <int kKeys>
struct KeyTiles {
  int64_t begin[2], end[2];
  int in_first, count;

  template <typename Keys>
  __device__ __forceinline__ KeyTiles(const Keys& keys, const typename Keys::Block& block, int64_t low, int64_t high) {
    keys.Ranges(block, low, high, begin, end);
    in_first = static_cast<int>(CeilDiv(end[0] - begin[0], kKeys));
    count = in_first + static_cast<int>(CeilDiv(max(int64_t{0}, end[1] - begin[1]), kKeys));
  }
  // A tile's keys: at most kKeys from `first` on, up to `limit`.
  __device__ __forceinline__ void Range(int tile, int64_t& first, int64_t& limit) const {
    const bool second = tile >= in_first;
    first = (second ? begin[1] : begin[0]) + int64_t{tile - (second ? in_first : 0)} * kKeys;
    limit = second ? end[1] : end[0];
  }
};

}  // namespace duo::cuda
