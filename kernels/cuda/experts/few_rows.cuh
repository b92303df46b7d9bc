// Experts of few rows: which experts are chosen is read on the device, so that launches have one shape and can be
// recorded. A block has columns of one chosen expert's output; blocks past the last chosen expert end at once. A warp
// reads a row of weights once for up to kSlots rows of x, one row alone where there is but one. A slot is a row's j-th
// expert: row * chosen + j.
#pragma once

#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/linear/weight_value.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/experts.h"

namespace duo::cuda {

constexpr int kExpertWarps = 8;

// An expert that some row chose: its slots are lists' [begin, end), the first of them is first_slot. expert -1: none.
struct ChosenExpert {
  int expert, begin, end, first_slot;
};
// The chosen experts, ascending, and the slots of each, ascending. Of many experts few are chosen: one row of 128
// experts chooses 8, and blocks for the other 120 took longer to end than the products.
struct SlotLists {
  ChosenExpert* chosen;       // [experts or slots, whichever is fewer]
  int32_t* slots;             // [rows * chosen]
  int32_t* count;             // chosen experts
  const int32_t* of_one_row;  // its experts; then there are no lists: its slots are these, an expert each
  int most;                   // the size of `chosen`; of one row its experts
  int first, experts;         // of one row: those of the layer that are here; `chosen` has places among them

  // Of one row's expert: its place here; below 0: it is elsewhere.
  __device__ __forceinline__ int PlaceOf(int expert) const {
    const int place = expert - first;
    return place < experts ? place : -1;
  }
};

// Whole pieces of 16 bytes of a row of weights: so many columns. Where kPieces is false weights are read value by
// value, which any shape allows.
template <DType kType>
constexpr int PieceColumns() {
  return kType == DType::kI4 ? 32 : kType == DType::kBF16 || kType == DType::kF16 ? 8 : 16;
}
// A piece, and of int4 the scale and the minimum of its group, in which it lies whole; of fp8 in blocks (kBlocks) the
// scale of its block.
template <DType kType, bool kBlocks>
struct WeightPiece {
  static_assert(!kBlocks || kType == DType::kF8E4M3);
  uint32_t words[4];
  uint32_t pair = 0;

  __device__ __forceinline__ void Load(const Weight& w, int64_t row, int64_t col) {
    constexpr int kBytes = 16;
    LoadStreaming<kBytes>(words,
                          static_cast<const uint8_t*>(w.data) + (row * w.cols + col) / PieceColumns<kType>() * kBytes);
    if constexpr (kType == DType::kI4) {
      pair = __ldg(reinterpret_cast<const uint32_t*>(w.groups) + row * (w.cols / w.group) + col / w.group);
    }
    if constexpr (kBlocks) pair = __ldg(reinterpret_cast<const uint32_t*>(ScalesOfRow(w, row)) + col / w.group);
  }
  // Eight values from column 8 * `eighth` of the piece on; of codes without their scale.
  __device__ __forceinline__ void Eight(int eighth, float (&v)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if constexpr (kType == DType::kI4) {
        v[i] = __uint_as_float((words[eighth] >> (4 * i) & 15) | 0x4b000000u) - 0x1p23f;  // 2^23's last bit counts 1
      } else if constexpr (kType == DType::kI8) {
        v[i] = Int8Value(words[2 * eighth + i / 4], i % 4);
      } else if constexpr (kType == DType::kF8E4M3) {
        v[i] = F8ToFloat(static_cast<uint8_t>(words[2 * eighth + i / 4] >> (8 * (i % 4))));
      } else {
        const uint32_t two = words[i / 2];
        v[i] = kType == DType::kBF16 ? (i % 2 == 0 ? LowBf16(two) : HighBf16(two)) : F16Value(two >> (16 * (i % 2)));
      }
    }
  }
};
template <DType kType, bool kPieces, bool kBlocks>
__device__ __forceinline__ float RowScale(const Weight& w, int64_t row) {
  return kPieces && HasRowScales(kType) && !kBlocks ? w.scales[row] : 1.0f;
}

__device__ __forceinline__ void LoadEight(const bf16* x, float (&v)[8]) {
  const uint4 r = *reinterpret_cast<const uint4*>(x);
  const uint32_t words[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = LowBf16(words[i]);
    v[2 * i + 1] = HighBf16(words[i]);
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
template <DType kType, bool kPieces, bool kBlocks, int kRows, int kSlots>
__device__ __forceinline__ void WarpProducts(const ExpertProduct& p, const int64_t (&rows)[kRows],
                                             const int (&slots)[kSlots], int count, float (&sums)[kRows][kSlots]) {
  const int lane = threadIdx.x % 32;
  const bf16* x[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    x[s] = p.x + slots[s] / p.slots_a_row * p.x_stride;
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[r][s] = 0;
  }
  if constexpr (kPieces) {
    constexpr int kColumns = PieceColumns<kType>();
    constexpr bool kScaled = kType == DType::kI4 || kBlocks;  // by pieces
    WeightPiece<kType, kBlocks> pieces[kRows], next[kRows];
    auto fetch = [&](int64_t col) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) next[r].Load(p.bank, rows[r], col);
    };
    if (lane * kColumns < p.bank.cols) fetch(lane * kColumns);
    for (int64_t col = lane * kColumns; col < p.bank.cols; col += 32 * kColumns) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) pieces[r] = next[r];
      if (col + 32 * kColumns < p.bank.cols) fetch(col + 32 * kColumns);
      float codes[kRows][kSlots] = {}, x_sums[kSlots] = {};  // of the piece
#pragma unroll
      for (int e = 0; e < kColumns / 8; ++e) {
        float w[kRows][8];
#pragma unroll
        for (int r = 0; r < kRows; ++r) pieces[r].Eight(e, w[r]);
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          if (kSlots > 1 && s >= count) break;  // without a branch the compiler asks for all of x at once
          float v[8];
          LoadEight(x[s] + col + 8 * e, v);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            if constexpr (kType == DType::kI4) x_sums[s] += v[i];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              float& sum = kScaled ? codes[r][s] : sums[r][s];
              sum = fmaf(w[r][i], v[i], sum);
            }
          }
        }
      }
      if constexpr (kBlocks) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int s = 0; s < kSlots; ++s) sums[r][s] = fmaf(__uint_as_float(pieces[r].pair), codes[r][s], sums[r][s]);
        }
      }
      if constexpr (kType == DType::kI4) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float scale = F16Value(pieces[r].pair), min = F16Value(pieces[r].pair >> 16);
#pragma unroll
          for (int s = 0; s < kSlots; ++s) sums[r][s] += fmaf(scale, codes[r][s], min * x_sums[s]);
        }
      }
    }
  } else {
    for (int64_t col = lane; col < p.bank.cols; col += 32) {
      float w[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) w[r] = WeightValue(p.bank, rows[r], col);
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (s >= count) break;
        const float v = ToFloat(x[s][col]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r][s] = fmaf(w[r], v, sums[r][s]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float scale = RowScale<kType, kPieces, kBlocks>(p.bank, rows[r]);
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

// The i-th chosen expert: one load, for everything else waits for it. Past the L1, since it may be read before the
// kernel ahead has ended.
__device__ __forceinline__ ChosenExpert ChosenAt(const SlotLists& lists, int i) {
  if (lists.of_one_row != nullptr) return {lists.PlaceOf(__ldcg(lists.of_one_row + i)), i, i + 1, i};
  const int4 of = __ldcg(reinterpret_cast<const int4*>(lists.chosen) + i);
  return {of.x, of.y, of.z, of.w};
}
// The next kSlots slots of an expert, from its `first` on; past the last one, its first.
template <int kSlots>
__device__ __forceinline__ void NextSlots(const SlotLists& lists, const ChosenExpert& of, int first,
                                          int (&slots)[kSlots]) {
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    slots[s] = of.first_slot;
    if (first + s > of.begin && first + s < of.end) slots[s] = lists.slots[first + s];
  }
}

// A warp has so many columns of an output.
constexpr int kUpColumns = 2, kDownColumns = 4;

// product [slots][n] = gate and up by `gating`, halves rounded first. Grid: blocks of columns, chosen experts.
template <DType kType, bool kPieces, int kSlots, bool kBlocks = false>
__global__ void __launch_bounds__(32 * kExpertWarps) GateUpKernel(bf16* product, ExpertProduct p, Gating gating) {
  StartOverlapped();
  const ChosenExpert of = ChosenAt(p.lists, blockIdx.y);
  const int64_t n = p.bank.rows / p.experts / 2, column = (blockIdx.x * kExpertWarps + threadIdx.x / 32) * kUpColumns;
  if (of.expert < 0 || column >= n) return;
  int64_t rows[2 * kUpColumns];
#pragma unroll
  for (int i = 0; i < kUpColumns; ++i) {
    rows[2 * i] = int64_t{of.expert} * 2 * n + min(column + i, n - 1);
    rows[2 * i + 1] = rows[2 * i] + n;
  }
  for (int first = of.begin; first < of.end; first += kSlots) {
    const int count = min(kSlots, of.end - first);
    int slots[kSlots];
    NextSlots(p.lists, of, first, slots);
    float sums[2 * kUpColumns][kSlots];
    WarpProducts<kType, kPieces, kBlocks>(p, rows, slots, count, sums);
    if (threadIdx.x % 32 != 0) continue;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (s >= count) break;
#pragma unroll
      for (int i = 0; i < kUpColumns; ++i) {
        const float gate = ToFloat(ToBf16(sums[2 * i][s])), up = ToFloat(ToBf16(sums[2 * i + 1][s]));
        if (column + i < n) product[slots[s] * n + column + i] = ToBf16(gating.Of(gate, up));
      }
    }
  }
}

// y [slots][dim] f32. Grid: blocks of columns, chosen experts.
template <DType kType, bool kPieces, int kSlots, bool kBlocks = false>
__global__ void __launch_bounds__(32 * kExpertWarps) DownKernel(float* y, ExpertProduct p) {
  StartOverlapped();
  const ChosenExpert of = ChosenAt(p.lists, blockIdx.y);
  const int64_t dim = p.bank.rows / p.experts, column = (blockIdx.x * kExpertWarps + threadIdx.x / 32) * kDownColumns;
  if (of.expert < 0 || column >= dim) return;
  int64_t rows[kDownColumns];
#pragma unroll
  for (int i = 0; i < kDownColumns; ++i) rows[i] = int64_t{of.expert} * dim + min(column + i, dim - 1);
  for (int first = of.begin; first < of.end; first += kSlots) {
    const int count = min(kSlots, of.end - first);
    int slots[kSlots];
    NextSlots(p.lists, of, first, slots);
    float sums[kDownColumns][kSlots];
    WarpProducts<kType, kPieces, kBlocks>(p, rows, slots, count, sums);
    if (threadIdx.x % 32 != 0) continue;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (s >= count) break;
#pragma unroll
      for (int i = 0; i < kDownColumns; ++i) {
        if (column + i < dim) y[slots[s] * dim + column + i] = sums[i][s];
      }
    }
  }
}

}  // namespace duo::cuda
