// Rotary position embedding. Angles are products of f64 and reduced by f64 sine and cosine: at a million tokens an f32
// angle would be off by 0.03 rad.
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
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

// One warp per (row, q or k head); a lane takes pairs (k, k + half).
__global__ void RotateQkKernel(bf16* qkv, int64_t stride, int64_t rows, int head_dim, int q_heads, int heads,
                               const float* cos_sin, int64_t cs_stride, const float* q_norm, const float* k_norm,
                               float eps) {
  StartOverlapped();
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32, half = head_dim / 2;
  if (item >= rows * heads) return;
  const int64_t row = item / heads;
  const int head = item % heads;
  bf16* x = qkv + row * stride + int64_t{head} * head_dim;  // k heads follow the q heads
  const float* norm = head < q_heads ? q_norm : k_norm;
  float factor = 1;
  if (norm != nullptr) {
    float squares = 0;
    for (int k = lane; k < head_dim; k += 32) squares += ToFloat(x[k]) * ToFloat(x[k]);
    factor = 1.0f / sqrtf(WarpSum(squares) / head_dim + eps);
  }
  for (int k = lane; k < half; k += 32) {
    float a = ToFloat(x[k]), b = ToFloat(x[k + half]);
    if (norm != nullptr) {
      a *= factor * norm[k];
      b *= factor * norm[k + half];
    }
    const float cosine = cos_sin[row * cs_stride + k], sine = cos_sin[row * cs_stride + half + k];
    x[k] = ToBf16(a * cosine - b * sine);
    x[k + half] = ToBf16(b * cosine + a * sine);
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
  LaunchOverlapped(device, RotateQkKernel, dim3(blocks), dim3(256), 0, qkv.as<bf16>(), qkv.stride, qkv.rows,
                   shape.head_dim, q_heads, heads, cos_sin.as<float>(), cos_sin.stride, q_norm, k_norm, eps);
}

}  // namespace duo::cuda
