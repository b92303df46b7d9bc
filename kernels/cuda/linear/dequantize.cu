#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/linear/dequantize.h"
#include "kernels/cuda/linear/weight_value.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kEach = 16;  // consecutive elements of a thread

__global__ void DequantizeAny(bf16* out, Weight weight, int64_t first, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count * weight.cols) return;
  out[i] = ToBf16(WeightValue(weight, first + i / weight.cols, i % weight.cols));
}

// cols % 16 == 0, so that a thread's elements share a row and a group. kGrouped: of int8, and of fp8 in blocks; int4
// always is.
template <DType kType, bool kGrouped, CodeTable kTable = CodeTable::kNone>
__global__ void DequantizeCodes(bf16* out, Weight weight, int64_t first, int64_t count) {
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kEach;
  if (i >= count * weight.cols) return;
  const int64_t row = first + i / weight.cols, col = i % weight.cols, at = row * weight.cols + col;
  uint32_t words[kEach / 4];
  float scale, min = 0;
  if constexpr (kType == DType::kI4) {
    LoadStreaming<8>(words, static_cast<const uint8_t*>(weight.data) + at / 2);
  } else {
    LoadStreaming<16>(words, static_cast<const uint8_t*>(weight.data) + at);
  }
  if constexpr (kGrouped && kType == DType::kF8E4M3) {
    scale = ScalesOfRow(weight, row)[col / weight.group];
  } else if constexpr (kGrouped) {
    const GroupPair pair = GroupPairOf(weight, row, col);
    scale = pair.scale;
    min = pair.min;
  } else {
    scale = weight.scales[row];
  }
  uint32_t pairs[kEach / 2];
#pragma unroll
  for (int p = 0; p < kEach / 2; ++p) {
    float value[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int e = 2 * p + j;
      if constexpr (kTable != CodeTable::kNone) {
        const uint32_t four = FourNumbers<kTable>(words[e / 8] >> (16 * (e % 8 / 4)));
        value[j] = fmaf(Int8Value(four, e % 4) * kTableUnit<kTable>, scale, min);
      } else if constexpr (kType == DType::kI4) {
        value[j] = fmaf(static_cast<float>((words[e / 8] >> (4 * (e % 8))) & 15), scale, min);
      } else {
        const uint8_t code = words[e / 4] >> (8 * (e % 4));
        const float number = kType == DType::kI8 ? static_cast<float>(static_cast<int8_t>(code)) : F8ToFloat(code);
        value[j] = kGrouped && kType == DType::kI8 ? fmaf(number, scale, min) : number * scale;
      }
    }
    pairs[p] = PackBf16(value[0], value[1]);
  }
  uint4* target = reinterpret_cast<uint4*>(out + i);
  target[0] = {pairs[0], pairs[1], pairs[2], pairs[3]};
  target[1] = {pairs[4], pairs[5], pairs[6], pairs[7]};
}

template <typename T>
__global__ void AddBiasKernel(T* out, int64_t stride, int64_t rows, int64_t cols, const float* bias) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows * cols) return;
  T* x = out + i / cols * stride + i % cols;
  const float sum = ToFloat(*x) + bias[i % cols];
  if constexpr (sizeof(T) == 2) {
    *x = ToBf16(sum);
  } else {
    *x = sum;
  }
}

}  // namespace

void Dequantize(Device& device, bf16* out, const Weight& weight, int64_t first, int64_t count) {
  const int64_t elements = count * weight.cols;
  const bool codes = weight.cols % kEach == 0 && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
  const unsigned blocks = static_cast<unsigned>(CeilDiv(elements / kEach, 256));
  if (codes && weight.dtype == DType::kI8 && weight.group > 0) {
    DequantizeCodes<DType::kI8, true><<<blocks, 256, 0, Stream(device)>>>(out, weight, first, count);
  } else if (codes && weight.dtype == DType::kI8) {
    DequantizeCodes<DType::kI8, false><<<blocks, 256, 0, Stream(device)>>>(out, weight, first, count);
  } else if (codes && HasScaleBlocks(weight)) {
    DequantizeCodes<DType::kF8E4M3, true><<<blocks, 256, 0, Stream(device)>>>(out, weight, first, count);
  } else if (codes && weight.dtype == DType::kF8E4M3) {
    DequantizeCodes<DType::kF8E4M3, false><<<blocks, 256, 0, Stream(device)>>>(out, weight, first, count);
  } else if (codes && weight.table == CodeTable::kIq4) {
    DequantizeCodes<DType::kI4, true, CodeTable::kIq4><<<blocks, 256, 0, Stream(device)>>>(out, weight, first, count);
  } else if (codes && weight.table == CodeTable::kE2M1) {
    DequantizeCodes<DType::kI4, true, CodeTable::kE2M1><<<blocks, 256, 0, Stream(device)>>>(out, weight, first, count);
  } else if (codes && weight.dtype == DType::kI4) {
    DequantizeCodes<DType::kI4, true><<<blocks, 256, 0, Stream(device)>>>(out, weight, first, count);
  } else {
    DequantizeAny<<<CeilDiv(elements, 256), 256, 0, Stream(device)>>>(out, weight, first, count);
  }
  DUO_CUDA_CHECK(cudaGetLastError());
}

void AddBias(Device& device, View out, const float* bias) {
  const unsigned blocks = static_cast<unsigned>(CeilDiv(out.rows * out.cols, 256));
  if (out.dtype == DType::kF32) {
    AddBiasKernel<<<blocks, 256, 0, Stream(device)>>>(out.as<float>(), out.stride, out.rows, out.cols, bias);
  } else {
    AddBiasKernel<<<blocks, 256, 0, Stream(device)>>>(out.as<bf16>(), out.stride, out.rows, out.cols, bias);
  }
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
