// Gradients of a mixture of experts row by row: products of rows, and rows added where they came from.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

__global__ void DotRowsKernel(float* out, const bf16* a, int64_t a_stride, const bf16* b, int64_t b_stride, int cols) {
  const int64_t row = blockIdx.x;
  float sum = 0;
  for (int c = threadIdx.x; c < cols; c += 32) {
    sum = fmaf(ToFloat(a[row * a_stride + c]), ToFloat(b[row * b_stride + c]), sum);
  }
  sum = WarpSum(sum);
  if (threadIdx.x == 0) out[row] = sum;
}

__global__ void AddWeightedRowsKernel(float* to, int64_t to_stride, const bf16* from, int64_t from_stride,
                                      WeightedRows which, int cols) {
  const int64_t i = blockIdx.x;
  float* out = to + (which.rows != nullptr ? which.rows[i] : i) * to_stride;
  const float weight = which.weights != nullptr ? which.weights[i] : 1.0f;
  for (int c = threadIdx.x; c < cols; c += blockDim.x) {
    out[c] = fmaf(weight, ToFloat(from[i * from_stride + c]), out[c]);
  }
}

}  // namespace

void DotRows(Device& device, float* out, View a, View b) {
  DotRowsKernel<<<a.rows, 32, 0, Stream(device)>>>(out, a.as<bf16>(), a.stride, b.as<bf16>(), b.stride, a.cols);
  DUO_CUDA_CHECK(cudaGetLastError());
}

void AddWeightedRows(Device& device, View to, View from, const WeightedRows& which) {
  AddWeightedRowsKernel<<<from.rows, 256, 0, Stream(device)>>>(to.as<float>(), to.stride, from.as<bf16>(), from.stride,
                                                               which, from.cols);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
