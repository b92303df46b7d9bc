// Element-wise and row-wise ops: embedding, residual + RMS norm, SwiGLU, row gathers. All are bound by memory: 16-byte
// accesses where rows allow it.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/base/row_norm.cuh"
#include "kernels/cuda/linear/weight_value.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kEmbedThreads = 512, kEmbedEach = 8;

// One block a row. It is among a step's first kernels, and what later ones read before their own wait must then be
// there (rows, angles, plans): so it lets them start behind its wait, not before.
__global__ void __launch_bounds__(kEmbedThreads)
    EmbedKernel(float* residual, int64_t stride, const int32_t* ids, Weight table, int32_t first_id) {
  const int64_t id = int64_t{ids[blockIdx.x]} - first_id;
  float* out = residual + blockIdx.x * stride;
  const bool here = id >= 0 && id < table.rows;
  for (int64_t first = threadIdx.x; first < RoundUp(table.cols, kEmbedThreads); first += kEmbedThreads * kEmbedEach) {
    float values[kEmbedEach];
#pragma unroll
    for (int i = 0; i < kEmbedEach; ++i) {
      const int64_t c = first + i * kEmbedThreads;
      values[i] = here && c < table.cols ? WeightValue(table, id, c) : 0.0f;
    }
    if (first == threadIdx.x) {
      WaitForDependency();
      LetDependentsStart();
    }
#pragma unroll
    for (int i = 0; i < kEmbedEach; ++i) {
      const int64_t c = first + i * kEmbedThreads;
      if (c < table.cols) out[c] = values[i];
    }
  }
}

__global__ void FillRowsKernel(bf16* out, int64_t stride, const float* row, int64_t cols) {
  bf16* to = out + blockIdx.x * stride;
  for (int64_t c = threadIdx.x; c < cols; c += blockDim.x) to[c] = ToBf16(row[c]);
}

// What a row gains, as it lies in memory.
struct AddedRow {
  const uint2* at;  // null: nothing
  __device__ bool nothing() const { return at == nullptr; }
  __device__ void Fetch() const {}
  __device__ uint2 Of(int, int v) const { return at[v]; }
};

// One block a row (row_norm.cuh); dim % 4 == 0 and rows 16-byte (residual) and 8-byte (bf16) aligned.
__global__ void __launch_bounds__(kNormThreads)
    AddRmsNormVectors(bf16* out, int64_t out_stride, float* residual, int64_t stride, const bf16* add,
                      int64_t add_stride, const float* weight, int dim, float eps) {
  const NormRow row = {reinterpret_cast<float4*>(residual + blockIdx.x * stride),
                       out == nullptr ? nullptr : reinterpret_cast<uint2*>(out + blockIdx.x * out_stride), weight, dim,
                       eps};
  LetDependentsStart();
  const NormWeights<kNormVectors> weights(row);
  WaitForDependency();
  const bf16* added = add == nullptr ? nullptr : add + blockIdx.x * add_stride;
  AddNormRow<true>(row, weights, AddedRow{reinterpret_cast<const uint2*>(added)});
}

__global__ void AddRmsNormAny(bf16* out, int64_t out_stride, float* residual, int64_t stride, const bf16* add,
                              int64_t add_stride, const float* weight, int dim, float eps) {
  StartOverlapped();
  float* row = residual + blockIdx.x * stride;
  float sum = 0;
  for (int c = threadIdx.x; c < dim; c += blockDim.x) {
    float x = row[c];
    if (add != nullptr) row[c] = x += ToFloat(add[blockIdx.x * add_stride + c]);
    sum += x * x;
  }
  if (out == nullptr) return;
  const float factor = 1.0f / sqrtf(BlockSum(sum) / dim + eps);
  for (int c = threadIdx.x; c < dim; c += blockDim.x) {
    out[blockIdx.x * out_stride + c] = ToBf16(row[c] * factor * weight[c]);
  }
}

__global__ void SwiGluVectors(bf16* out, int64_t out_stride, const bf16* gate_up, int64_t stride, int vectors,
                              int64_t n) {
  const int v = blockIdx.x * blockDim.x + threadIdx.x;
  StartOverlapped();
  if (v >= vectors) return;
  for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
    const uint4* in = reinterpret_cast<const uint4*>(gate_up + row * stride);
    const uint4 g = in[v], u = in[v + vectors];
    auto one = [](uint32_t a, uint32_t b) {
      return PackBf16(Silu(LowBf16(a)) * LowBf16(b), Silu(HighBf16(a)) * HighBf16(b));
    };
    reinterpret_cast<uint4*>(out + row * out_stride)[v] = {one(g.x, u.x), one(g.y, u.y), one(g.z, u.z), one(g.w, u.w)};
  }
}

__global__ void SwiGluAny(bf16* out, int64_t out_stride, const bf16* gate_up, int64_t stride, int cols, int64_t n) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  StartOverlapped();
  if (c >= cols) return;
  for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
    const float g = ToFloat(gate_up[row * stride + c]), u = ToFloat(gate_up[row * stride + cols + c]);
    out[row * out_stride + c] = ToBf16(Silu(g) * u);
  }
}

// T: a row's bytes are a multiple of it.
template <typename T>
__global__ void GatherRowsKernel(uint8_t* out, int64_t out_stride, const uint8_t* in, int64_t in_stride,
                                 const int32_t* rows, int64_t bytes) {
  StartOverlapped();
  const T* from = reinterpret_cast<const T*>(in + rows[blockIdx.x] * in_stride);
  T* to = reinterpret_cast<T*>(out + blockIdx.x * out_stride);
  for (int64_t i = threadIdx.x; i < bytes / static_cast<int64_t>(sizeof(T)); i += blockDim.x) to[i] = from[i];
}

bool Aligned(const View& v, int bytes) {
  return reinterpret_cast<uintptr_t>(v.data) % bytes == 0 && v.stride * (Bits(v.dtype) / 8) % bytes == 0;
}

}  // namespace

void Embed(Device& device, View residual, const int32_t* ids, const Weight& table, int32_t first_id) {
  LaunchOverlapped(device, EmbedKernel, dim3(residual.rows), dim3(kEmbedThreads), 0, residual.as<float>(),
                   residual.stride, ids, table, first_id);
}

void FillRows(Device& device, View out, const float* row) {
  FillRowsKernel<<<out.rows, 256, 0, Stream(device)>>>(out.as<bf16>(), out.stride, row, out.cols);
  DUO_CUDA_CHECK(cudaGetLastError());
}

void AddRmsNorm(Device& device, View out, View residual, View add, const float* weight, float eps) {
  const bool vectors = residual.cols % 4 == 0 && Aligned(residual, 16) && (add.empty() || Aligned(add, 8)) &&
                       (out.empty() || Aligned(out, 8));
  const auto kernel = vectors ? AddRmsNormVectors : AddRmsNormAny;
  LaunchOverlapped(device, kernel, dim3(residual.rows), dim3(kNormThreads), 0, out.empty() ? nullptr : out.as<bf16>(),
                   out.stride, residual.as<float>(), residual.stride, add.empty() ? nullptr : add.as<bf16>(),
                   add.stride, weight, residual.cols, eps);
}

void SwiGlu(Device& device, View out, View gate_up) {
  const int64_t rows = out.rows;
  const unsigned grid_rows = static_cast<unsigned>(rows < 32768 ? rows : 32768);
  if (out.cols % 8 == 0 && Aligned(out, 16) && Aligned(gate_up, 16)) {
    const int vectors = out.cols / 8;
    LaunchOverlapped(device, SwiGluVectors, dim3(CeilDiv(vectors, 128), grid_rows), dim3(128), 0, out.as<bf16>(),
                     out.stride, gate_up.as<bf16>(), gate_up.stride, vectors, rows);
  } else {
    LaunchOverlapped(device, SwiGluAny, dim3(CeilDiv(out.cols, 128), grid_rows), dim3(128), 0, out.as<bf16>(),
                     out.stride, gate_up.as<bf16>(), gate_up.stride, out.cols, rows);
  }
}

void GatherRows(Device& device, View out, View in, const int32_t* rows, int count) {
  const int64_t size = Bits(in.dtype) / 8;
  const bool vectors = in.cols * size % 16 == 0 && Aligned(in, 16) && Aligned(out, 16);
  const auto kernel = vectors ? GatherRowsKernel<uint4> : GatherRowsKernel<uint8_t>;
  LaunchOverlapped(device, kernel, dim3(count), dim3(256), 0, out.as<uint8_t>(), out.stride * size,
                   in.as<const uint8_t>(), in.stride * size, rows, in.cols * size);
}

}  // namespace duo::cuda
