// Experts of few rows: which experts are chosen is read on the device, so that launches have one shape and can be
// recorded. A block has columns of one expert's output; where no row chose the expert it ends at once and reads no
// weight. A warp reads a row of weights once for up to kSlots rows of x. A slot is a row's j-th expert: row * chosen +
// j.
#pragma once

#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/linear/weight_value.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/experts.h"

namespace duo::cuda {

constexpr int kExpertWarps = 8;
constexpr int kSlots = 4;

// The slots of each expert, ascending.
struct SlotLists {
  int32_t* begin;  // [experts + 1]
  int32_t* slots;  // [rows * chosen]
};

// kEach consecutive values of a row of weights from column `col` on, which is a multiple of kEach; of codes with a
// scale a row without it (RowScale). kEach 8: pieces of the row are aligned to their size. kEach 1: any shape.
template <DType kType, int kEach>
__device__ __forceinline__ void WeightValues(const Weight& w, int64_t row, int64_t col, float (&v)[kEach]) {
  if constexpr (kEach == 1) {
    v[0] = WeightValue(w, row, col);
  } else {
    static_assert(kEach == 8);
    const int64_t at = row * w.cols + col;
    const auto* data = static_cast<const uint8_t*>(w.data);
    if constexpr (kType == DType::kBF16 || kType == DType::kF16) {
      uint32_t r[4];
      LoadStreaming<16>(r, data + 2 * at);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[2 * i] = kType == DType::kBF16 ? LowBf16(r[i]) : F16Value(r[i]);
        v[2 * i + 1] = kType == DType::kBF16 ? HighBf16(r[i]) : F16Value(r[i] >> 16);
      }
    } else if constexpr (kType == DType::kF8E4M3 || kType == DType::kI8) {
      uint32_t r[2];
      LoadStreaming<8>(r, data + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint8_t code = r[i / 4] >> (8 * (i % 4));
        v[i] = kType == DType::kI8 ? static_cast<float>(static_cast<int8_t>(code)) : F8ToFloat(code);
      }
    } else {
      uint32_t r[1];
      LoadStreaming<4>(r, data + at / 2);
      const uint32_t pair =
          __ldg(reinterpret_cast<const uint32_t*>(w.groups) + row * (w.cols / w.group) + col / w.group);
      const float scale = F16Value(pair), min = F16Value(pair >> 16);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = fmaf(static_cast<float>(r[0] >> (4 * i) & 15), scale, min);
    }
  }
}
template <DType kType, int kEach>
__device__ __forceinline__ float RowScale(const Weight& w, int64_t row) {
  return kEach == 8 && HasRowScales(kType) ? w.scales[row] : 1.0f;
}

template <int kEach>
__device__ __forceinline__ void LoadX(const bf16* x, float (&v)[kEach]) {
  if constexpr (kEach == 1) {
    v[0] = ToFloat(*x);
  } else {
    const uint4 r = *reinterpret_cast<const uint4*>(x);
    const uint32_t words[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = LowBf16(words[i]);
      v[2 * i + 1] = HighBf16(words[i]);
    }
  }
}

// What a product of the chosen experts' rows takes.
struct ExpertProduct {
  const bf16* x;
  int64_t x_stride;
  int slots_a_row;  // of x: `chosen` where x has a row for each row, 1 where it has one for each slot
  Weight bank;
  int experts;
  SlotLists lists;
};

// Sums [kRows][kSlots] of kRows weight rows times the x of up to kSlots slots; the same on all lanes.
template <DType kType, int kEach, int kRows>
__device__ __forceinline__ void WarpProducts(const ExpertProduct& p, const int64_t (&rows)[kRows], int first, int count,
                                             float (&sums)[kRows][kSlots]) {
  const int lane = threadIdx.x % 32;
  const bf16* x[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    x[s] = p.x + p.lists.slots[first + (s < count ? s : 0)] / p.slots_a_row * p.x_stride;
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[r][s] = 0;
  }
#pragma unroll 2
  for (int64_t col = lane * kEach; col < p.bank.cols; col += 32 * kEach) {
    float w[kRows][kEach];
#pragma unroll
    for (int r = 0; r < kRows; ++r) WeightValues<kType, kEach>(p.bank, rows[r], col, w[r]);
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (s >= count) break;
      float v[kEach];
      LoadX<kEach>(x[s] + col, v);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) sums[r][s] = fmaf(w[r][i], v[i], sums[r][s]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float scale = RowScale<kType, kEach>(p.bank, rows[r]);
    const float bias = p.bank.bias != nullptr ? p.bank.bias[rows[r]] : 0.0f;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) sums[r][s] = WarpSum(sums[r][s]) * scale + bias;
  }
}

// What stands between gate and up: ExpertBank's.
struct Gating {
  float limit, alpha;
  __device__ __forceinline__ float Of(float gate, float up) const {
    return limit == 0 ? Silu(gate) * up : ClampedGate(gate, up, limit, alpha);
  }
};

// product [slots][n] = gate and up by `gating`, halves rounded first. Grid: blocks of columns, experts.
template <DType kType, int kEach>
__global__ void __launch_bounds__(32 * kExpertWarps) GateUpKernel(bf16* product, ExpertProduct p, Gating gating) {
  StartOverlapped();
  const int expert = blockIdx.y, begin = p.lists.begin[expert], end = p.lists.begin[expert + 1];
  const int64_t n = p.bank.rows / p.experts / 2, column = blockIdx.x * kExpertWarps + threadIdx.x / 32;
  if (begin == end || column >= n) return;
  const int64_t rows[2] = {expert * 2 * n + column, (expert * 2 + 1) * n + column};
  for (int first = begin; first < end; first += kSlots) {
    const int count = min(kSlots, end - first);
    float sums[2][kSlots];
    WarpProducts<kType, kEach>(p, rows, first, count, sums);
    if (threadIdx.x % 32 != 0) continue;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (s >= count) break;
      const float gate = ToFloat(ToBf16(sums[0][s])), up = ToFloat(ToBf16(sums[1][s]));
      product[p.lists.slots[first + s] * n + column] = ToBf16(gating.Of(gate, up));
    }
  }
}

// y [slots][dim] f32. Grid: blocks of columns, experts.
template <DType kType, int kEach>
__global__ void __launch_bounds__(32 * kExpertWarps) DownKernel(float* y, ExpertProduct p) {
  StartOverlapped();
  const int expert = blockIdx.y, begin = p.lists.begin[expert], end = p.lists.begin[expert + 1];
  const int64_t dim = p.bank.rows / p.experts, column = blockIdx.x * kExpertWarps + threadIdx.x / 32;
  if (begin == end || column >= dim) return;
  const int64_t rows[1] = {expert * dim + column};
  for (int first = begin; first < end; first += kSlots) {
    const int count = min(kSlots, end - first);
    float sums[1][kSlots];
    WarpProducts<kType, kEach>(p, rows, first, count, sums);
    if (threadIdx.x % 32 != 0) continue;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (s < count) y[p.lists.slots[first + s] * dim + column] = sums[0][s];
    }
  }
}

}  // namespace duo::cuda
