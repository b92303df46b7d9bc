// What a warp of linear_small.cuh does with its share of k: it lays x out in shared memory as fragments want it, and
// multiplies raw weights by it. Weights are the A operand [16 outputs x k], x the B operand, so no row of the product
// is padding. Which k sits in which fragment slot is free as long as x is laid out alike: a lane's weights are
// consecutive bytes of two output rows.
//
//   bf16, fp8   meet x as it is, fp8 codes as bf16; a row of x is a column of B.
//   f16         meets x as f16, scaled by a power of two that loses nothing larger than 2^-29 of a row's largest.
//   int8, int4  meet x as 16-bit fixed point on the integer tensor cores, two columns of B a row of x: its high and its
//               low bytes. int8 codes are operands as they lie in memory, int4 codes after two operations a word. x is
//               rounded to max |x| / 65,278 of the warp's share, little against the bf16 rounding of every output; the
//               sums are exact. Groups of columns (int4 always, int8 where the weight has them) are summed apart and
//               scaled; their scales have one level or two (Weight in ops.h).
#pragma once

#include "kernels/base/math.h"
#include "kernels/cuda/linear/fixed_point.cuh"
#include "kernels/cuda/linear/linear_blocks.cuh"

namespace duo::cuda {

// A warp's x in shared memory.
struct SharedX {
  uint8_t* elements;  // [block] kXBytes a row
  float* sums;        // groups: [block][piece][row]
};

// Where a chunk of x (8 consecutive k) of a block goes: lane quarter c, the c's `index`-th chunk.
template <DType kType, int kGroup>
struct ChunkPlace {
  int c, index;
  __device__ __forceinline__ explicit ChunkPlace(int chunk) {
    using S = BlockShape<kType, kGroup>;
    const int piece = chunk / (4 * S::kLaneChunks), in_piece = chunk % (4 * S::kLaneChunks);
    c = in_piece / S::kLaneChunks;
    index = piece * S::kLaneChunks + in_piece % S::kLaneChunks;
  }
};

// The products of one tile, weights as 16-bit floats. kRows: the most rows, 8 or 16. kWide: three rows and more, whose
// x is laid out with many loads under way. That takes a third more registers, and with so many no block of the kernel
// behind gets in before the last ones have ended: one row then lost more than eight had won.
template <DType kType, int kRows, bool kWide = false>
class FloatProducts {
 public:
  using S = BlockShape<kType, 0>;
  static constexpr int kEights = kRows / 8;

  // `x` is the share's first column, `blocks` long. Elements lie [block][16-byte unit][row][lane quarter]. Of `peers`
  // warps that have the share in common, this one lays out its part of the units.
  __device__ __forceinline__ void Stage(const bf16* x, int64_t stride, int rows, int blocks, const SharedX& shared,
                                        int lane, int peer = 0, int peers = 1) {
    if constexpr (kWide) return StageWide(x, stride, rows, blocks, shared, lane, peer, peers);
    const int chunks = blocks * S::kChunks;
    for (int row = 0; row < rows; row += 4, x += 4 * stride) {
      const int count = min(4, rows - row);
      uint32_t exponent = 0;
      if constexpr (kHalf) {
        exponent = max(__float_as_uint(LargestOf(x, stride, count, chunks, lane)) >> 23, 15u);
        const float unit = __uint_as_float((exponent - 14) << 23);  // its inverse makes the largest 2^14 to 2^15
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float of_column = __shfl_sync(0xffffffffu, unit, 2 * lane % 4 + j);
#pragma unroll
          for (int n = 0; n < kEights; ++n) {
            if (8 * n + 2 * (lane % 4) / 4 * 4 == row) units_[n][j] = of_column;
          }
        }
      }
      for (int r = 0; r < count; ++r) {
        const float factor = __uint_as_float((268 - __shfl_sync(0xffffffffu, exponent, r)) << 23);
#pragma unroll 4
        for (int i = lane; i < chunks; i += 32) {
          uint4 v = *reinterpret_cast<const uint4*>(x + r * stride + i * 8);
          if constexpr (S::kBits == 8) {  // a word holds codes 0-3; its pairs are (0, 2), (1, 3)
            v = {__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x5410),
                 __byte_perm(v.z, v.w, 0x7632)};
          }
          if constexpr (kType == DType::kF8E4M3) {
            auto scaled = [](uint32_t pair) { return PackBf16(LowBf16(pair) * 0x1p64f, HighBf16(pair) * 0x1p64f); };
            v = {scaled(v.x), scaled(v.y), scaled(v.z), scaled(v.w)};
          }
          if constexpr (kHalf) v = {Half(v.x, factor), Half(v.y, factor), Half(v.z, factor), Half(v.w, factor)};
          const ChunkPlace<kType, 0> place(i % S::kChunks);
          const int unit = i / S::kChunks * S::kLaneChunks + place.index;
          reinterpret_cast<uint4*>(shared.elements)[(unit * rows + row + r) * 4 + place.c] = v;
        }
      }
    }
  }

  __device__ __forceinline__ void StageWide(const bf16* x, int64_t stride, int rows, int blocks, const SharedX& shared,
                                            int lane, int peer, int peers) {
    const int chunks = blocks * S::kChunks;
    uint32_t exponents[2 * kEights] = {};  // of row 4 i + lane % 4's largest
    if constexpr (kHalf) {
#pragma unroll
      for (int i = 0; i < 2 * kEights; ++i) {
        if (4 * i >= rows) break;
        const float largest = LargestOf(x + 4 * i * stride, stride, min(4, rows - 4 * i), chunks, lane);
        exponents[i] = max(__float_as_uint(largest) >> 23, 15u);
        const float unit = __uint_as_float((exponents[i] - 14) << 23);  // its inverse makes the largest 2^14 to 2^15
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float of_column = __shfl_sync(0xffffffffu, unit, 2 * lane % 4 + j);
          if (2 * (lane % 4) / 4 == i % 2) units_[i / 2][j] = of_column;
        }
      }
    }
    StageMore(x, stride, rows, blocks, exponents, shared, lane, peer, peers);
  }

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int n = 0; n < kEights; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums_[0][n][i] = sums_[1][n][i] = 0;
    }
  }

  __device__ __forceinline__ void Multiply(const RawBlock<kType, 0>& raw, const GroupParams<kType, 0, false>&,
                                           const SharedX& shared, int rows, int block, int, int lane) {
    const int g = lane / 4, c = lane % 4;
#pragma unroll
    for (int unit = 0; unit < S::kLaneChunks; ++unit) {
      uint4 b[kEights];
#pragma unroll
      for (int n = 0; n < kEights; ++n) {  // columns past the last row repeat it; nobody reads their sums
        const int row = min(8 * n + g, rows - 1);
        b[n] = reinterpret_cast<const uint4*>(shared.elements)[((block * S::kLaneChunks + unit) * rows + row) * 4 + c];
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        constexpr int kPairs = 16 / S::kBits;
        const int r0 = unit * 4 + half * 2, r1 = r0 + 1;
        const uint32_t a0 = Pair(raw.w[0][r0 / kPairs], r0 % kPairs), a1 = Pair(raw.w[1][r0 / kPairs], r0 % kPairs);
        const uint32_t a2 = Pair(raw.w[0][r1 / kPairs], r1 % kPairs), a3 = Pair(raw.w[1][r1 / kPairs], r1 % kPairs);
#pragma unroll
        for (int n = 0; n < kEights; ++n) {
          const uint32_t b0 = half == 0 ? b[n].x : b[n].z, b1 = half == 0 ? b[n].y : b[n].w;
          if constexpr (kHalf) {
            MmaF16(sums_[half][n], a0, a1, a2, a3, b0, b1);
          } else {
            Mma(sums_[half][n], a0, a1, a2, a3, b0, b1);
          }
        }
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
        float value = sums_[0][n][i] + sums_[1][n][i];
        if constexpr (kHalf) value *= units_[n][i % 2];
        if constexpr (kType == DType::kF8E4M3) value *= 0x1p56f;  // of fp8's 2^-120 and of x's 2^64
        sums[row * 16 + lane / 4 + 8 * (i / 2)] = value;
      }
    }
  }

 private:
  static constexpr bool kHalf = kType == DType::kF16;

  // The loads of x that a lane has under way at once: what staging takes is their latency.
  static constexpr int kAtOnce = 8;

  // Any rows, each of up to eight by four lanes, so that a warp's stores lie in order.
  __device__ __forceinline__ void StageMore(const bf16* x, int64_t stride, int rows, int blocks,
                                            const uint32_t (&exponents)[2 * kEights], const SharedX& shared, int lane,
                                            int peer, int peers) const {
    const int c = lane % 4, units = blocks * S::kLaneChunks;
#pragma unroll
    for (int n = 0; n < kEights; ++n) {
      if (8 * n >= rows) break;
      const uint32_t low = __shfl_sync(0xffffffffu, exponents[2 * n], lane / 4 % 4);
      const uint32_t high = __shfl_sync(0xffffffffu, exponents[2 * n + 1], lane / 4 % 4);
      const float factor = FactorOf(lane < 16 ? low : high);
      const int row = 8 * n + lane / 4;
      if (row >= rows) continue;
      const bf16* from = x + row * stride + c * (8 * S::kLaneChunks);
      uint4* to = reinterpret_cast<uint4*>(shared.elements) + row * 4 + c;
      for (int first = peer; first < units; first += kAtOnce * peers) {
        uint4 v[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int unit = first + i * peers;
          if (unit >= units) break;
          const int column = unit / S::kLaneChunks * S::kColumns + unit % S::kLaneChunks * 8;
          v[i] = *reinterpret_cast<const uint4*>(from + column);
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int unit = first + i * peers;
          if (unit >= units) break;
          to[unit * rows * 4] = AsOperand(v[i], factor);
        }
      }
    }
  }

  // Of f16: what a row is scaled by whose largest has this exponent.
  static __device__ __forceinline__ float FactorOf(uint32_t exponent) {
    return __uint_as_float((268 - exponent) << 23);
  }
  // Eight x as the weights meet them.
  static __device__ __forceinline__ uint4 AsOperand(uint4 v, float factor) {
    if constexpr (S::kBits == 8) {  // a word holds codes 0-3; its pairs are (0, 2), (1, 3)
      v = {__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x5410),
           __byte_perm(v.z, v.w, 0x7632)};
    }
    if constexpr (kType == DType::kF8E4M3) {
      auto scaled = [](uint32_t pair) { return PackBf16(LowBf16(pair) * 0x1p64f, HighBf16(pair) * 0x1p64f); };
      v = {scaled(v.x), scaled(v.y), scaled(v.z), scaled(v.w)};
    }
    if constexpr (kHalf) v = {Half(v.x, factor), Half(v.y, factor), Half(v.z, factor), Half(v.w, factor)};
    return v;
  }
  static __device__ __forceinline__ uint32_t Half(uint32_t pair, float factor) {
    return PackF16(LowBf16(pair) * factor, HighBf16(pair) * factor);
  }
  static __device__ __forceinline__ uint32_t Pair(uint32_t word, int u) {
    if constexpr (kType == DType::kF8E4M3) return F8HighBytes(u == 0 ? word << 8 : word);
    return word;
  }

  float sums_[2][kEights][4];     // two chains
  float units_[kEights][2] = {};  // f16: what 1 of a row's scaled x stands for
};

// The products of one tile, weights as integers. kRows: the most rows, 4, 8 or 16.
template <DType kType, int kGroup, bool kTwo, int kRows>
class IntegerProducts {
 public:
  using S = BlockShape<kType, kGroup>;
  static constexpr int kFours = kRows / 4;  // eight columns of B

  // `x` is the share's first column, `blocks` long. Elements lie [block][64 k][row][high, low][lane quarter][chunk].
  // Every row is scaled so that its largest |x| of the share becomes kMostFixed.
  __device__ __forceinline__ void Stage(const bf16* x, int64_t stride, int rows, int blocks, const SharedX& shared,
                                        int lane, int = 0, int = 1) {
    const int chunks = blocks * S::kChunks;
    for (int row = 0; row < rows; row += 4, x += 4 * stride) {
      const int count = min(4, rows - row);
      const float largest = LargestOf(x, stride, count, chunks, lane), unit = FixedUnit(largest);
#pragma unroll
      for (int n = 0; n < kFours; ++n) {
        if (4 * n == row) units_[n] = unit;
      }
      for (int r = 0; r < count; ++r) {
        const float factor = 1 / __shfl_sync(0xffffffffu, unit, r);
        // Whole warps go round together: the sums shuffle.
#pragma unroll 2
        for (int i = lane; i < RoundUp(chunks, 32); i += 32) {
          const uint4 v = i < chunks ? *reinterpret_cast<const uint4*>(x + r * stride + i * 8) : make_uint4(0, 0, 0, 0);
          uint2 high, low;
          [[maybe_unused]] int sum = FixedEight<kType>(v, factor, high, low);
          if constexpr (S::kGrouped) {
#pragma unroll
            for (int lanes = 1; lanes < kGroup / 8; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
            if (i < chunks && i % (kGroup / 8) == 0) {
              shared.sums[i / (kGroup / 8) * rows + row + r] = static_cast<float>(sum);
            }
          }
          if constexpr (S::kHalfChunks) {
            if (i < chunks) {  // eight consecutive x are those of two lane quarters
              uint8_t* words =
                  shared.elements + (i / S::kChunks * rows + row + r) * 128 + i % 2 * 32 + i % S::kChunks / 2 * 4;
              *reinterpret_cast<uint32_t*>(words) = high.x;
              *reinterpret_cast<uint32_t*>(words + 16) = high.y;
              *reinterpret_cast<uint32_t*>(words + 64) = low.x;
              *reinterpret_cast<uint32_t*>(words + 80) = low.y;
            }
          } else if (i < chunks) {
            const ChunkPlace<kType, kGroup> place(i % S::kChunks);
            uint8_t* line = shared.elements + ((i / S::kChunks * kLines + place.index / 2) * rows + row + r) * 128;
            *reinterpret_cast<uint2*>(line + place.c * 16 + place.index % 2 * 8) = high;
            *reinterpret_cast<uint2*>(line + 64 + place.c * 16 + place.index % 2 * 8) = low;
          }
        }
      }
    }
  }

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) codes_[0][n][i] = codes_[1][n][i] = 0;
      sums_[n][0] = sums_[n][1] = 0;
    }
  }

  // Block `block` of the share, whose parameters are those of block `of_four` of `params`.
  __device__ __forceinline__ void Multiply(const RawBlock<kType, kGroup>& raw,
                                           const GroupParams<kType, kGroup, kTwo>& params, const SharedX& shared,
                                           int rows, int block, int of_four, int lane) {
    const int g = lane / 4, c = lane % 4;
    const auto of_block = params.Fetch(of_four, lane);
    int products[kFours][4] = {};
    auto end_group = [&](int piece) {
      const float2 pairs[2] = {params.Of(of_block, of_four, 0, piece, lane),
                               params.Of(of_block, of_four, 1, piece, lane)};
      AddGroup(products, pairs, shared.sums + (block * S::kPieces + piece) * rows, rows, c);
    };
#pragma unroll
    for (int line = 0; line < kLines; ++line) {
      uint4 b[kFours];
#pragma unroll
      for (int n = 0; n < kFours; ++n) {  // columns past the last row repeat it; nobody reads their sums
        const int column = min(8 * n + g, 2 * rows - 1);
        b[n] = *reinterpret_cast<const uint4*>(shared.elements + column * 64 + c * 16 +
                                               (block * kLines + line) * (rows * 128));
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int chunk = 2 * line + half;
        if constexpr (S::kHalfChunks) {
#pragma unroll
          for (int piece = 2 * half; piece < 2 * half + 2; ++piece) {
#pragma unroll
            for (int n = 0; n < kFours; ++n) {
              const uint32_t words[4] = {b[n].x, b[n].y, b[n].z, b[n].w};
              MmaS8Short(products[n], raw.w[0][piece], raw.w[1][piece], words[piece]);
            }
            end_group(piece);
          }
        } else {
#pragma unroll
          for (int n = 0; n < kFours; ++n) {
            const uint32_t b0 = half == 0 ? b[n].x : b[n].z, b1 = half == 0 ? b[n].y : b[n].w;
            if constexpr (kType == DType::kI8) {
              MmaS8(S::kGrouped ? products[n] : codes_[half][n], raw.w[0][2 * chunk], raw.w[1][2 * chunk],
                    raw.w[0][2 * chunk + 1], raw.w[1][2 * chunk + 1], b0, b1);
            } else {
              const uint32_t w0 = raw.w[0][chunk], w1 = raw.w[1][chunk];
              MmaU8S8(products[n], w0 & kNibbles, w1 & kNibbles, w0 >> 4 & kNibbles, w1 >> 4 & kNibbles, b0, b1);
            }
          }
          if constexpr (S::kGrouped) {
            if (chunk % S::kLaneChunks == S::kLaneChunks - 1) end_group(chunk / S::kLaneChunks);
          }
        }
      }
    }
  }

  // sums [row][16 outputs]
  __device__ __forceinline__ void Store(float* sums, int lane) const {
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float value = sums_[n][h];
        if constexpr (!S::kGrouped) {
          const int high = codes_[0][n][2 * h] + codes_[1][n][2 * h];
          const int low = codes_[0][n][2 * h + 1] + codes_[1][n][2 * h + 1];
          value = fmaf(256.0f, static_cast<float>(high), static_cast<float>(low));
        }
        sums[(4 * n + lane % 4) * 16 + lane / 4 + 8 * h] = value * units_[n];
      }
    }
  }

 private:
  static constexpr int kLines = S::kColumns / 64;
  static constexpr uint32_t kNibbles = 0x0f0f0f0fu;

  // A group's products into the sums: scale * codes + min, times x.
  __device__ __forceinline__ void AddGroup(int (&products)[kFours][4], const float2 (&pairs)[2], const float* x_sums,
                                           int rows, int c) {
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
      const float x_sum = x_sums[min(4 * n + c, rows - 1)];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float product = static_cast<float>(256 * products[n][2 * h] + products[n][2 * h + 1]);
        sums_[n][h] = fmaf(pairs[h].x, product, fmaf(pairs[h].y, x_sum, sums_[n][h]));
        products[n][2 * h] = products[n][2 * h + 1] = 0;
      }
    }
  }

  int codes_[2][kFours][4];   // int8 without groups, two chains: [output g][high, low], [output g + 8][high, low]
  float sums_[kFours][2];     // groups: [output g, g + 8]
  float units_[kFours] = {};  // what 1 of a row's fixed point stands for
};

}  // namespace duo::cuda
