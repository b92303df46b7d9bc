// What becomes of a q or k vector behind its product, by one warp: RotateQk of kernels/attention.h.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/primitives.cuh"

namespace duo::cuda {

// Multiplies a vector by the Hadamard matrix (kernels/hadamard.h), of which this lane holds elements lane + 32 j in
// v[j].
template <int kEach>
__device__ __forceinline__ void HadamardRotate(float (&v)[kEach]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int width = 1; width < 32; width *= 2) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const float other = __shfl_xor_sync(~0u, v[j], width);
      v[j] = (lane & width) != 0 ? other - v[j] : v[j] + other;
    }
  }
#pragma unroll
  for (int width = 1; width < kEach; width *= 2) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if ((j & width) != 0) continue;
      const float a = v[j], b = v[j + width];
      v[j] = a + b;
      v[j + width] = a - b;
    }
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j) v[j] *= rsqrtf(32.0f * kEach);
}

constexpr int kMostRotated = 128;  // head_dim of RotateHead
constexpr int kRotatedPairs = kMostRotated / 64;

// What a lane needs of a head besides its vector and its angles: pair i is elements lane + 32 i of either half. Weights
// alone, so that they may be fetched before the kernels before this one have ended.
struct HeadConstants {
  bool normed, shifted;
  float eps;
  float norm[2][kRotatedPairs], shift[2][kRotatedPairs];  // [half]

  // head: of [q heads | k heads].
  __device__ __forceinline__ HeadConstants(const HeadShape& shape, int head, const QkNorms& norms,
                                           const float* key_shift)
      : eps(norms.eps) {
    const int d = shape.head_dim, half = d / 2, q_heads = shape.kv_heads * shape.group;
    const bool is_key = head >= q_heads;
    const float* of_norm = is_key ? norms.k : norms.q;
    const float* of_shift = is_key && key_shift != nullptr ? key_shift + int64_t{head - q_heads} * d : nullptr;
    normed = of_norm != nullptr;
    shifted = of_shift != nullptr;
#pragma unroll
    for (int i = 0; i < kRotatedPairs; ++i) {
      const int k = threadIdx.x % 32 + 32 * i;
      if (k >= half) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (normed) norm[h][i] = of_norm[k + h * half];
        if (shifted) shift[h][i] = of_shift[k + h * half];
      }
    }
  }
};

// Optional RMS norm, rotate-half RoPE, optional shift and, for head_dim 64 and 128, optional Hadamard rotation of a
// vector, to `out`, which may be x. cos_sin: the row's cosines, then sines.
__device__ __forceinline__ void RotateHead(const bf16* x, bf16* out, int head_dim, const float* cos_sin,
                                           const HeadConstants& of, bool hadamard) {
  const int lane = threadIdx.x % 32, half = head_dim / 2;
  float first[kRotatedPairs], second[kRotatedPairs], cosine[kRotatedPairs], sine[kRotatedPairs];
#pragma unroll
  for (int i = 0; i < kRotatedPairs; ++i) {  // all loads are on their way before the norm's sum waits for any
    const int k = lane + 32 * i;
    if (k >= half) break;
    first[i] = ToFloat(x[k]), second[i] = ToFloat(x[k + half]);
    cosine[i] = cos_sin[k], sine[i] = cos_sin[half + k];
  }
  float factor = 1;
  if (of.normed) {
    float squares = 0;
    for (int k = lane; k < head_dim; k += 32) squares += ToFloat(x[k]) * ToFloat(x[k]);
    factor = 1.0f / sqrtf(WarpSum(squares) / head_dim + of.eps);
  }
#pragma unroll
  for (int i = 0; i < kRotatedPairs; ++i) {
    if (lane + 32 * i >= half) break;
    float a = first[i], b = second[i];
    if (of.normed) {
      a *= factor * of.norm[0][i];
      b *= factor * of.norm[1][i];
    }
    first[i] = a * cosine[i] - b * sine[i];
    second[i] = b * cosine[i] + a * sine[i];
    if (of.shifted) {
      first[i] -= of.shift[0][i];
      second[i] -= of.shift[1][i];
    }
  }
  if (hadamard && head_dim == 64) {
    float v[2] = {first[0], second[0]};
    HadamardRotate(v);
    first[0] = v[0];
    second[0] = v[1];
  } else if (hadamard) {
    float v[4] = {first[0], first[1], second[0], second[1]};
    HadamardRotate(v);
    first[0] = v[0];
    first[1] = v[1];
    second[0] = v[2];
    second[1] = v[3];
  }
#pragma unroll
  for (int i = 0; i < kRotatedPairs; ++i) {
    const int k = lane + 32 * i;
    if (k >= half) break;
    out[k] = ToBf16(first[i]);
    out[k + half] = ToBf16(second[i]);
  }
}

}  // namespace duo::cuda
