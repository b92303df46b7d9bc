// Rotary position embedding. Angles are products of f64 and reduced by f64 sine and cosine: at a million tokens an f32
// angle would be off by 0.03 rad.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/dense/rotate_head.cuh"
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

// One warp per (row, q or k head).
__global__ void RotateQkKernel(bf16* qkv, int64_t stride, int64_t rows, HeadShape shape, const float* cos_sin,
                               int64_t cs_stride, QkNorms norms, const float* key_shift) {
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int heads = shape.kv_heads * (shape.group + 1);
  if (item >= rows * heads) return;
  const int64_t row = item / heads;
  const int head = item % heads;  // k heads follow the q heads
  LetDependentsStart();
  const HeadConstants constants(shape, head, norms, key_shift);
  WaitForDependency();
  bf16* x = qkv + row * stride + int64_t{head} * shape.head_dim;
  RotateHead(x, x, shape.head_dim, cos_sin + row * cs_stride, constants, shape.hadamard(head));
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
  const HeadConstants constants(shape, head, norms, nullptr);
  bf16* x = qkv + row * stride + int64_t{head} * d;
  const float* angles = cos_sin + row * cs_stride;
  if (head >= q_heads) return RotateHead(x, x, d, angles, constants, hadamard);
  const auto rotate = [&](ChunkKind kind, bf16* out) {
    RotateHead(x, out, d, angles + (static_cast<int>(kind) + 1) * d, constants, hadamard);
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
