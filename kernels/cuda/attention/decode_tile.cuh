// The inside of decode attention: one warp attends kCols query columns to 16 tokens at a time, codes of any format read
// straight from global memory into tensor-core fragments, without shared memory.
//
//   scores^T [16 tokens x 8 columns] = K [16 x d] * Q^T [d x 8]      K is the A operand: a token a row, no padding
//   O^T      [d x 8 columns]        += V^T [d x 16] * P^T [16 x 8]   V^T is the A operand: a channel a row
//
// "Columns" are (row of the step, query head of the group) pairs; all of them share each read of K and V.
// decode_codes.cuh says which lane holds what.
//
// Codes enter the products as exact bf16 integers, scales and minima are applied to scores and probabilities:
//   score = scale * (q . code') + offset * sum(q)
//   o     = sum_t (p scale) code'_t + sum_t p offset_v
// where code' = code - 128 (int8), 2^-120 value (fp8), for int4 code + 128 in K and code - 8 in V,
// so every attended value is the exact decoded one. Every sum of products says whether it is fused: left to the
// compiler, one width might be and another not, and a row's bits would depend on its company. V's codes lie around zero
// for two reasons: rounding p * scale to bf16 costs no more than in the plain path, and tensor cores cut their f32 sums
// off instead of rounding them, which over a million tokens of codes around 136 adds up (seen: 0.0017 of the values'
// range at 4 M).
#pragma once

#include "kernels/cuda/attention/decode_codes.cuh"

namespace duo::cuda {

// What a warp knows of kN x 8 columns besides their output: the running softmax over the tokens whose scores it has.
// Lane (g, c) holds columns 8 n + 2 c + {0, 1}, and of a tile's scores those of the tokens of rows g and g + 8.
template <KvFormat kFormat, int kN>
struct WarpColumns {
  using Form = CodeForm<kFormat>;

  float top[kN][2];     // reference of the exponents, log2 units: within 8 of the true maximum
  float sum[kN][2];     // this lane's part of sum p
  float offset[kN][2];  // of sum p * (v minimum + kMiddle * v scale) (int4, int8)
  float q_sum[kN][2];   // sum of the column's q, times the softmax scale (int4, int8)

  __device__ __forceinline__ void Reset() {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        top[n][j] = -1e30f;  // finite, so that a masked score gives exp2(-inf) = 0 whatever was seen before
        sum[n][j] = offset[n][j] = 0;
      }
    }
  }

  // Scores to log2 units. `scale` = softmax scale * log2 e.
  __device__ __forceinline__ void Scale(float (&s)[kN][4], const uint32_t (&params)[2], float scale) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (kFormat == KvFormat::kBF16) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          s[n][2 * h] = __fmul_rn(s[n][2 * h], scale);
          s[n][2 * h + 1] = __fmul_rn(s[n][2 * h + 1], scale);
        }
      } else if constexpr (kFormat == KvFormat::kFp8) {
        const float factor = F16Value(params[h]) * (scale * Form::kUndo);
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          s[n][2 * h] = __fmul_rn(s[n][2 * h], factor);
          s[n][2 * h + 1] = __fmul_rn(s[n][2 * h + 1], factor);
        }
      } else {
        const float code_scale = F16Value(params[h]);
        const float factor = code_scale * scale, zero = F16Value(params[h] >> 16) - Form::kZero * code_scale;
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          s[n][2 * h] = __fmaf_rn(s[n][2 * h], factor, __fmul_rn(zero, q_sum[n][0]));
          s[n][2 * h + 1] = __fmaf_rn(s[n][2 * h + 1], factor, __fmul_rn(zero, q_sum[n][1]));
        }
      }
    }
  }

  // Raises the references where a score would pass them by more than 8, rescaling what was summed: of the columns that
  // need it alone, so that what a column becomes depends on no other. rescale(n, j, factor) does so with a column's
  // output, by 1 where nothing is to be done; it is called for all columns or none. Was any raised?
  template <int kTiles, typename Rescale>
  __device__ __forceinline__ bool Raise(const float (&s)[kTiles][kN][4], Rescale&& rescale) {
    bool over = false;
    float highest_of[kN][2];  // of the lane's own scores
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float highest = fmaxf(s[0][n][j], s[0][n][j + 2]);
#pragma unroll
        for (int t = 1; t < kTiles; ++t) highest = fmaxf(highest, fmaxf(s[t][n][j], s[t][n][j + 2]));
        highest_of[n][j] = highest;
        over |= highest > top[n][j] + 8.0f;
      }
    }
    if (!__any_sync(0xffffffffu, over)) return false;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float highest = fmaxf(top[n][j], highest_of[n][j]);
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 4));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 8));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 16));
        const bool higher = highest > top[n][j] + 8.0f;
        const float factor = higher ? Exp2(top[n][j] - highest) : 1.0f;
        top[n][j] = higher ? highest : top[n][j];
        sum[n][j] = __fmul_rn(sum[n][j], factor);
        offset[n][j] = __fmul_rn(offset[n][j], factor);
        rescale(n, j, factor);
      }
    }
    return true;
  }

  // Probabilities of one tile: sums, and pairs of what V's codes are multiplied by, to keep(n, h, pair): of columns
  // 8 n + 2 c + {0, 1} and the token of row g + 8 h. see(n, p0, p1) sees the lane's own of columns n.
  template <typename See, typename Keep>
  __device__ __forceinline__ void Probabilities(const float (&s)[kN][4], const uint32_t (&params)[2], See&& see,
                                                Keep&& keep) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float scale = 1, zero = 0;
      if constexpr (kFormat == KvFormat::kFp8) scale = F16Value(params[h]) * Form::kQFactor;
      if constexpr (kFormat == KvFormat::kInt4 || kFormat == KvFormat::kInt8) {
        scale = F16Value(params[h]);
        zero = F16Value(params[h] >> 16) + Form::kMiddle * scale;
      }
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const float p0 = Exp2(s[n][2 * h] - top[n][0]), p1 = Exp2(s[n][2 * h + 1] - top[n][1]);
        sum[n][0] += p0;
        sum[n][1] += p1;
        see(n, p0, p1);
        const uint32_t pair = kFormat == KvFormat::kBF16 ? PackBf16(p0, p1) : PackBf16(p0 * scale, p1 * scale);
        if constexpr (kFormat == KvFormat::kInt4 || kFormat == KvFormat::kInt8) {
          offset[n][0] = __fmaf_rn(p0, zero, offset[n][0]);
          offset[n][1] = __fmaf_rn(p1, zero, offset[n][1]);
        }
        keep(n, h, pair);
      }
    }
  }

  // Adds up the lanes' sums of columns n; what the column's output has to have added.
  __device__ __forceinline__ float Finish(int n, int j) {
    auto over_tokens = [](float x) {
      x += __shfl_xor_sync(0xffffffffu, x, 4);
      x += __shfl_xor_sync(0xffffffffu, x, 8);
      return x + __shfl_xor_sync(0xffffffffu, x, 16);
    };
    sum[n][j] = over_tokens(sum[n][j]);
    if constexpr (kFormat == KvFormat::kInt4 || kFormat == KvFormat::kInt8) return over_tokens(offset[n][j]);
    return 0;
  }
};

// A warp's running attention of kN x 8 columns, whose output of all channels it holds.
template <KvFormat kFormat, int kHeadDim, int kN>
struct WarpAttention : WarpColumns<kFormat, kN> {
  using S = TileShape<kFormat, kHeadDim>;
  using Columns = WarpColumns<kFormat, kN>;
  using Form = CodeForm<kFormat>;
  static constexpr int kChunks = kHeadDim / 16;

  float o[kN][kChunks][4];

  __device__ __forceinline__ void Reset() {
    Columns::Reset();
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int m = 0; m < kChunks; ++m) {
#pragma unroll
        for (int j = 0; j < 4; ++j) o[n][m][j] = 0;
      }
    }
  }

  // s = q . code' of one 16-token tile. q(n, k) gives the B fragment of columns n and k-step k.
  template <typename QFragment>
  __device__ __forceinline__ void Scores(float (&s)[kN][4], const uint32_t (&k)[2][S::kKWords], QFragment&& q) {
#pragma unroll
    for (int n = 0; n < kN; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int step = 0; step < kChunks; ++step) {
      constexpr int kPairs = S::kPairsPerWord;
      const int r0 = 2 * step, r1 = r0 + 1;
      const uint32_t a0 = KPair<kFormat>(k[0][r0 / kPairs], r0 % kPairs);
      const uint32_t a1 = KPair<kFormat>(k[1][r0 / kPairs], r0 % kPairs);
      const uint32_t a2 = KPair<kFormat>(k[0][r1 / kPairs], r1 % kPairs);
      const uint32_t a3 = KPair<kFormat>(k[1][r1 / kPairs], r1 % kPairs);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const uint2 b = q(n, step);
        Mma(s[n], a0, a1, a2, a3, b.x, b.y);
      }
    }
  }

  template <int kTiles>
  __device__ __forceinline__ void Raise(const float (&s)[kTiles][kN][4]) {
    Columns::Raise(s, [&](int n, int j, float factor) {
#pragma unroll
      for (int m = 0; m < kChunks; ++m) o[n][m][j] *= factor, o[n][m][j + 2] *= factor;
    });
  }

  // Probabilities of one tile: sums, and the B fragments of P^T.
  template <typename See>
  __device__ __forceinline__ void Probabilities(uint32_t (&p)[kN][2], const float (&s)[kN][4],
                                                const uint32_t (&params)[2], See&& see) {
    Columns::Probabilities(s, params, see, [&](int n, int h, uint32_t pair) { p[n][h] = Transpose8x8(pair); });
  }
  __device__ __forceinline__ void Probabilities(uint32_t (&p)[kN][2], const float (&s)[kN][4],
                                                const uint32_t (&params)[2]) {
    Probabilities(p, s, params, [](int, float, float) {});
  }

  __device__ __forceinline__ void Values(const uint32_t (&p)[kN][2], const uint32_t (&v)[4][S::kVWords]) {
#pragma unroll
    for (int m = 0; m < kChunks; ++m) {
      const int w = 2 * m / S::kCodesPerWord, i = 2 * m % S::kCodesPerWord;
      const uint32_t a0 = VPair<kFormat>(v[0][w], v[1][w], i), a1 = VPair<kFormat>(v[0][w], v[1][w], i + 1);
      const uint32_t a2 = VPair<kFormat>(v[2][w], v[3][w], i), a3 = VPair<kFormat>(v[2][w], v[3][w], i + 1);
#pragma unroll
      for (int n = 0; n < kN; ++n) Mma(o[n][m], a0, a1, a2, a3, p[n][0], p[n][1]);
    }
  }

  // Adds up the lanes' sums and leaves o as the true (unnormalised) output.
  __device__ __forceinline__ void Finish() {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float add = Columns::Finish(n, j);
#pragma unroll
        for (int m = 0; m < kChunks; ++m) {
          o[n][m][j] = __fmaf_rn(o[n][m][j], Form::kUndo, add);
          o[n][m][j + 2] = __fmaf_rn(o[n][m][j + 2], Form::kUndo, add);
        }
      }
    }
  }
};

// Loads the Q fragments of kN x 8 columns. at(col) gives the column's q vector (bf16, head_dim, 16-byte aligned) or
// null for padding. keep(n, step, fragment) stores a fragment; q_sum receives sum q * scale of the lane's columns.
template <KvFormat kFormat, int kHeadDim, int kN, typename At, typename Keep>
__device__ __forceinline__ void LoadQ(At&& at, Keep&& keep, float (&q_sum)[kN][2], float scale, int lane) {
  using S = TileShape<kFormat, kHeadDim>;
  constexpr int kRun = S::kKVector / 4 * S::kCodesPerWord;  // consecutive channels of a lane: a vector load's codes
  constexpr int kRuns = kHeadDim / 4 / kRun;
  const int g = lane / 4, c = lane % 4;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    const bf16* q = at(8 * n + g);
    uint32_t words[kHeadDim / 8] = {};  // the lane's channels, run after run, in pairs
    if (q != nullptr) {
#pragma unroll
      for (int run = 0; run < kRuns; ++run) {
#pragma unroll
        for (int i = 0; i < kRun / 8; ++i) {
          const uint4 x = *reinterpret_cast<const uint4*>(q + (run * 4 + c) * kRun + i * 8);
          uint32_t* to = &words[(run * kRun + i * 8) / 2];
          to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
        }
      }
    }
    if constexpr (kFormat == KvFormat::kInt8 || kFormat == KvFormat::kInt4) {
      float total = 0;
#pragma unroll
      for (int i = 0; i < kHeadDim / 8; ++i) total += LowBf16(words[i]) + HighBf16(words[i]);
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);  // now every lane of group g has column 8 n + g
      q_sum[n][0] = __shfl_sync(0xffffffffu, total, 4 * (2 * c)) * scale;
      q_sum[n][1] = __shfl_sync(0xffffffffu, total, 4 * (2 * c + 1)) * scale;
    }
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      uint32_t fragment[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        // ChannelOfK of lane 0, as an offset into the lane's own runs.
        const int first = ChannelOfK<kFormat, kHeadDim>(2 * step + h, 0, 0);
        const int second = ChannelOfK<kFormat, kHeadDim>(2 * step + h, 0, 1);
        const int a = first / (4 * kRun) * kRun + first % kRun, b = second / (4 * kRun) * kRun + second % kRun;
        if constexpr (kFormat == KvFormat::kBF16) {
          fragment[h] = words[a / 2];
        } else {
          fragment[h] = __byte_perm(words[a / 2], words[b / 2], (a % 2 ? 0x0032 : 0x0010) + (b % 2 ? 0x7600 : 0x5400));
        }
        if constexpr (kFormat == KvFormat::kFp8) {
          fragment[h] = PackBf16(LowBf16(fragment[h]) * CodeForm<kFormat>::kQFactor,
                                 HighBf16(fragment[h]) * CodeForm<kFormat>::kQFactor);
        }
      }
      keep(n, step, make_uint2(fragment[0], fragment[1]));
    }
  }
}

}  // namespace duo::cuda
