// Rotary position embedding. Angles are products of f64 and reduced by f64 sine and cosine: at a million tokens an f32
// angle would be off by 0.03 rad.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// One block of 32 threads or more a (row, which of keys and kinds of queries).
__global__ void ChunkAnglesKernel(float* cos_sin, int64_t stride, int half, const int32_t* positions,
                                  const double* frequencies, double factor, DualChunk chunks) {
  const int64_t row = blockIdx.x, position = positions[row];
  const int which = blockIdx.y;  // 0: keys
  const auto kind = static_cast<ChunkKind>(which - 1);
  const int64_t turned = which == 0 ? chunks.KeyPosition(position) : chunks.QueryPosition(kind, position);
  if (which > 0) factor *= chunks.Scale(position);
  float* out = cos_sin + row * stride + int64_t{which} * 2 * half;
  for (int k = threadIdx.x; k < half; k += blockDim.x) {
    double sine, cosine;
    sincos(static_cast<double>(turned) * frequencies[k], &sine, &cosine);
    out[k] = static_cast<float>(cosine * factor);
    out[half + k] = static_cast<float>(sine * factor);
  }
}

__global__ void RopeAnglesKernel(float* cos_sin, int64_t stride, int64_t rows, int half, const int32_t* positions,
                                 const double* frequencies, double factor) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows * half) return;
  const int64_t row = i / half;
  const int k = i % half;
  double sine, cosine;
  sincos(static_cast<double>(positions[row]) * frequencies[k], &sine, &cosine);
  cos_sin[row * stride + k] = static_cast<float>(cosine * factor);
  cos_sin[row * stride + half + k] = static_cast<float>(sine * factor);
}

// Multiplies a vector by the Hadamard matrix (kernels/hadamard.h), of which this lane holds elements lane + 32 j in
// v[j].
template <int kEach>
__device__ void HadamardRotate(float (&v)[kEach]) {
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

// Optional RMS norm, rotate-half RoPE, optional shift and, for head_dim 64 and 128, optional Hadamard rotation of a q
// or k vector, to `out`, which may be x. cos_sin: the row's cosines, then sines. A lane takes pairs (k, k + half).
__device__ void RotateHead(const bf16* x, bf16* out, int head_dim, const float* cos_sin, const float* norm, float eps,
                           const float* shift, bool hadamard) {
  constexpr int kPairs = kMostRotated / 64;
  const int lane = threadIdx.x % 32, half = head_dim / 2;
  float factor = 1;
  if (norm != nullptr) {
    float squares = 0;
    for (int k = lane; k < head_dim; k += 32) squares += ToFloat(x[k]) * ToFloat(x[k]);
    factor = 1.0f / sqrtf(WarpSum(squares) / head_dim + eps);
  }
  float first[kPairs], second[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int k = lane + 32 * i;
    if (k >= half) break;
    float a = ToFloat(x[k]), b = ToFloat(x[k + half]);
    if (norm != nullptr) {
      a *= factor * norm[k];
      b *= factor * norm[k + half];
    }
    const float cosine = cos_sin[k], sine = cos_sin[half + k];
    first[i] = a * cosine - b * sine;
    second[i] = b * cosine + a * sine;
    if (shift != nullptr) {
      first[i] -= shift[k];
      second[i] -= shift[k + half];
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
  for (int i = 0; i < kPairs; ++i) {
    const int k = lane + 32 * i;
    if (k >= half) break;
    out[k] = ToBf16(first[i]);
    out[k + half] = ToBf16(second[i]);
  }
}

// One warp per (row, q or k head).
__global__ void RotateQkKernel(bf16* qkv, int64_t stride, int64_t rows, HeadShape shape, const float* cos_sin,
                               int64_t cs_stride, QkNorms norms, const float* key_shift) {
  StartOverlapped();
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int q_heads = shape.kv_heads * shape.group, heads = q_heads + shape.kv_heads;
  if (item >= rows * heads) return;
  const int64_t row = item / heads;
  const int head = item % heads;  // k heads follow the q heads
  const bool is_key = head >= q_heads;
  const float* shift = is_key && key_shift != nullptr ? key_shift + int64_t{head - q_heads} * shape.head_dim : nullptr;
  bf16* x = qkv + row * stride + int64_t{head} * shape.head_dim;
  RotateHead(x, x, shape.head_dim, cos_sin + row * cs_stride, is_key ? norms.k : norms.q, norms.eps, shift,
             shape.hadamard(head));
}

// Likewise; a q head's warp writes its three vectors, the one in place last.
__global__ void RotateQkByChunksKernel(bf16* qkv, int64_t stride, int64_t rows, bf16* previous, bf16* earlier,
                                       int64_t q_stride, HeadShape shape, const float* cos_sin, int64_t cs_stride,
                                       QkNorms norms) {
  StartOverlapped();
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int d = shape.head_dim, q_heads = shape.kv_heads * shape.group, heads = q_heads + shape.kv_heads;
  if (item >= rows * heads) return;
  const int64_t row = item / heads;
  const int head = item % heads;  // k heads follow the q heads
  const bool hadamard = shape.hadamard(head);
  bf16* x = qkv + row * stride + int64_t{head} * d;
  const float* angles = cos_sin + row * cs_stride;
  if (head >= q_heads) return RotateHead(x, x, d, angles, norms.k, norms.eps, nullptr, hadamard);
  const auto rotate = [&](ChunkKind kind, bf16* out) {
    RotateHead(x, out, d, angles + (static_cast<int>(kind) + 1) * d, norms.q, norms.eps, nullptr, hadamard);
  };
  rotate(ChunkKind::kPrevious, previous + row * q_stride + int64_t{head} * d);
  rotate(ChunkKind::kEarlier, earlier + row * q_stride + int64_t{head} * d);
  rotate(ChunkKind::kOwn, x);
}

}  // namespace

void RopeAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies, double factor) {
  const int half = cos_sin.cols / 2;
  const int64_t items = cos_sin.rows * half;
  RopeAnglesKernel<<<CeilDiv(items, 128), 128, 0, Stream(device)>>>(cos_sin.as<float>(), cos_sin.stride, cos_sin.rows,
                                                                    half, positions, frequencies, factor);
  DUO_CUDA_CHECK(cudaGetLastError());
}

void ChunkAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies, double factor,
                 const DualChunk& chunks) {
  const int half = static_cast<int>(cos_sin.cols / (2 * (kChunkKinds + 1)));
  ChunkAnglesKernel<<<dim3(cos_sin.rows, kChunkKinds + 1), 64, 0, Stream(device)>>>(
      cos_sin.as<float>(), cos_sin.stride, half, positions, frequencies, factor, chunks);
  DUO_CUDA_CHECK(cudaGetLastError());
}

void RotateQkByChunks(Device& device, View qkv, const ChunkQueries& queries, const HeadShape& shape, View cos_sin,
                      const QkNorms& norms) {
  DUO_CHECK_LE(shape.head_dim, kMostRotated);
  DUO_CHECK(shape.hadamard_heads == 0 || shape.head_dim == 64 || shape.head_dim == 128);
  DUO_CHECK_EQ(queries.previous.stride, queries.earlier.stride);
  const int64_t blocks = CeilDiv(qkv.rows * shape.kv_heads * (shape.group + 1), 8);
  LaunchOverlapped(device, RotateQkByChunksKernel, dim3(blocks), dim3(256), 0, qkv.as<bf16>(), qkv.stride, qkv.rows,
                   queries.previous.as<bf16>(), queries.earlier.as<bf16>(), queries.previous.stride, shape,
                   cos_sin.as<float>(), cos_sin.stride, norms);
}

void RotateQk(Device& device, View qkv, const HeadShape& shape, View cos_sin, const QkNorms& norms,
              const float* key_shift) {
  DUO_CHECK_LE(shape.head_dim, kMostRotated);
  DUO_CHECK(shape.hadamard_heads == 0 || shape.head_dim == 64 || shape.head_dim == 128);
  const int64_t heads = shape.kv_heads * (shape.group + 1);
  const int64_t blocks = CeilDiv(qkv.rows * heads, 8);
  LaunchOverlapped(device, RotateQkKernel, dim3(blocks), dim3(256), 0, qkv.as<bf16>(), qkv.stride, qkv.rows, shape,
                   cos_sin.as<float>(), cos_sin.stride, norms, key_shift);
}

}  // namespace duo::cuda
