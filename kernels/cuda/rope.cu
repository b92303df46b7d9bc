// Rotary position embedding. Angles are products of f64 and reduced by f64 sine and cosine: at a million tokens an f32
// angle would be off by 0.03 rad.
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

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

// One warp per (row, q or k head); lane l holds elements l + 32 i of the first half and their partners in the second.
template <int kHeadDim>
__global__ void RotateQkKernel(bf16* qkv, int64_t stride, int64_t rows, int q_heads, int heads, const float* cos_sin,
                               int64_t cs_stride, const float* q_norm, const float* k_norm, float eps) {
  constexpr int kHalf = kHeadDim / 2, kEach = kHalf / 32;
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (item >= rows * heads) return;
  const int64_t row = item / heads;
  const int head = item % heads;
  bf16* x = qkv + row * stride + int64_t{head} * kHeadDim;  // k heads follow the q heads
  const float* norm = head < q_heads ? q_norm : k_norm;
  float a[kEach], b[kEach], squares = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    a[i] = ToFloat(x[lane + 32 * i]);
    b[i] = ToFloat(x[lane + 32 * i + kHalf]);
    squares += a[i] * a[i] + b[i] * b[i];
  }
  if (norm != nullptr) {
    const float factor = 1.0f / sqrtf(WarpSum(squares) / kHeadDim + eps);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      a[i] *= factor * norm[lane + 32 * i];
      b[i] *= factor * norm[lane + 32 * i + kHalf];
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int k = lane + 32 * i;
    const float cosine = cos_sin[row * cs_stride + k], sine = cos_sin[row * cs_stride + kHalf + k];
    x[k] = ToBf16(a[i] * cosine - b[i] * sine);
    x[k + kHalf] = ToBf16(b[i] * cosine + a[i] * sine);
  }
}

}  // namespace

void RopeAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies, double factor) {
  const int half = cos_sin.cols / 2;
  const int64_t items = cos_sin.rows * half;
  RopeAnglesKernel<<<(items + 127) / 128, 128, 0, Stream(device)>>>(cos_sin.as<float>(), cos_sin.stride, cos_sin.rows,
                                                                    half, positions, frequencies, factor);
  DUO_CUDA_CHECK(cudaGetLastError());
}

void RotateQk(Device& device, View qkv, const HeadShape& shape, View cos_sin, const float* q_norm, const float* k_norm,
              float eps) {
  const int q_heads = shape.kv_heads * shape.group, heads = q_heads + shape.kv_heads;
  const int64_t blocks = (qkv.rows * heads + 7) / 8;
  DUO_CHECK(shape.head_dim == 64 || shape.head_dim == 128);
  const auto kernel = shape.head_dim == 64 ? RotateQkKernel<64> : RotateQkKernel<128>;
  kernel<<<blocks, 256, 0, Stream(device)>>>(qkv.as<bf16>(), qkv.stride, qkv.rows, q_heads, heads, cos_sin.as<float>(),
                                             cos_sin.stride, q_norm, k_norm, eps);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
