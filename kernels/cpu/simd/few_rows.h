// Attention of a few query rows over stored keys and values, which go from their codes into registers and nowhere else:
// a tile would be written and read for too little work.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd/codecs.h"
#include "kernels/cpu/simd/vector.h"

namespace duo::cpu {
namespace {

// Two vectors of consecutive values, from p on.
template <Code code>
DUO_INLINE void LoadPair(const uint8_t* p, F scale, F min, F pair[2]) {
  if constexpr (code == Code::kU4) {
    LoadNibbleValues<code>(p, scale, min, pair);
  } else {
    pair[0] = LoadValues<code>(p, scale, min);
    pair[1] = LoadValues<code>(p + kLanes * CodeBits(code) / 8, scale, min);
  }
}

// Lane i: the sum of vector i's lanes. log2(kLanes) perfect shuffles, the halves of each added.
DUO_INLINE F SumEach(F v[kLanes]) {
#pragma GCC unroll 4
  for (int n = kLanes / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) v[i] = InterleaveLow(v[i], v[i + n]) + InterleaveHigh(v[i], v[i + n]);
  }
  return v[0];
}

template <Code code, int kRows>
void DotRows(const CodedVectors& keys, const float* scales, const float* mins, const float* q, int q_stride,
             float* scores) {
  for (int first = 0; first < kKeyBlock; first += kLanes) {
    F sums[kRows][kLanes];
    for (int key = first; key < first + kLanes; ++key) {
      if (key >= keys.count) {
        for (int r = 0; r < kRows; ++r) sums[r][key - first] = F{};
        continue;
      }
      const uint8_t* p = keys.codes + key * keys.stride;
      const F scale = Splat(scales[key]), min = Splat(mins[key]);
      F dot[kRows] = {};
      for (int i = 0; i < keys.d; i += 2 * kLanes) {
        F pair[2];
        LoadPair<code>(p + i * CodeBits(code) / 8, scale, min, pair);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          dot[r] = Fma(pair[0], Load(q + r * q_stride + i), dot[r]);
          dot[r] = Fma(pair[1], Load(q + r * q_stride + i + kLanes), dot[r]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r][key - first] = dot[r];
    }
    for (int r = 0; r < kRows; ++r) StoreAs(scores + r * kKeyBlock + first, SumEach(sums[r]));
  }
}

// kPairs pairs of columns from `column` on.
template <Code code, int kRows, int kPairs>
DUO_INLINE void AddColumns(const CodedVectors& values, const float* scales, const float* mins, const float* weights,
                           const float* shrink, int column, float* o, int o_stride) {
  F sums[kRows][2 * kPairs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kPairs; ++i) sums[r][i] = Load(o + r * o_stride + column + i * kLanes) * Splat(shrink[r]);
  }
  for (int key = 0; key < values.count; ++key) {
    const uint8_t* p = values.codes + key * values.stride + column * CodeBits(code) / 8;
    const F scale = Splat(scales[key]), min = Splat(mins[key]);
    F v[2 * kPairs];
#pragma GCC unroll 4
    for (int i = 0; i < kPairs; ++i) LoadPair<code>(p + i * 2 * kLanes * CodeBits(code) / 8, scale, min, v + 2 * i);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const F weight = Splat(weights[r * kKeyBlock + key]);
#pragma GCC unroll 8
      for (int i = 0; i < 2 * kPairs; ++i) sums[r][i] = Fma(weight, v[i], sums[r][i]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < 2 * kPairs; ++i) StoreAs(o + r * o_stride + column + i * kLanes, sums[r][i]);
  }
}

template <Code code, int kRows>
void AddRows(const CodedVectors& values, const float* scales, const float* mins, const float* weights,
             const float* shrink, float* o, int o_stride) {
  constexpr int kPairs = kLanes == 16 ? (kRows == 4 ? 2 : 4) : (kRows == 4 ? 1 : 2);  // what the registers hold
  int column = 0;
  for (; column + kPairs * 2 * kLanes <= values.d; column += kPairs * 2 * kLanes) {
    AddColumns<code, kRows, kPairs>(values, scales, mins, weights, shrink, column, o, o_stride);
  }
  for (; column < values.d; column += 2 * kLanes) {
    AddColumns<code, kRows, 1>(values, scales, mins, weights, shrink, column, o, o_stride);
  }
}

// The vectors' f16 parameters as f32, ready for LoadPair.
template <Code code>
DUO_INLINE void LoadParams(const CodedVectors& x, float* scales, float* mins) {
  constexpr int kParams = code == Code::kU8 || code == Code::kU4 ? 2 : code == Code::kF8 ? 1 : 0;
  for (int i = 0; i < x.count; ++i) {
    scales[i] = kCodeScale<code>;
    mins[i] = 0.0f;
    if constexpr (kParams > 0) {
      H halves = {};
      __builtin_memcpy(&halves, x.params + i * kParams * 2, kParams * 2);
      const F p = FromF16(halves);
      scales[i] *= p[0];
      if constexpr (kParams == 2) mins[i] = p[1];
    }
  }
}

template <Code code>
void DotAs(const CodedVectors& keys, int rows, const float* q, int q_stride, float* scores) {
  float scales[kKeyBlock], mins[kKeyBlock];
  LoadParams<code>(keys, scales, mins);
  int r = 0;
  for (; r + 4 <= rows; r += 4) {
    DotRows<code, 4>(keys, scales, mins, q + r * q_stride, q_stride, scores + r * kKeyBlock);
  }
  for (; r + 2 <= rows; r += 2) {
    DotRows<code, 2>(keys, scales, mins, q + r * q_stride, q_stride, scores + r * kKeyBlock);
  }
  if (r < rows) DotRows<code, 1>(keys, scales, mins, q + r * q_stride, q_stride, scores + r * kKeyBlock);
}

template <Code code>
void AddAs(const CodedVectors& values, int rows, const float* weights, const float* shrink, float* o, int o_stride) {
  float scales[kKeyBlock], mins[kKeyBlock];
  LoadParams<code>(values, scales, mins);
  int r = 0;
  for (; r + 4 <= rows; r += 4) {
    AddRows<code, 4>(values, scales, mins, weights + r * kKeyBlock, shrink + r, o + r * o_stride, o_stride);
  }
  for (; r + 2 <= rows; r += 2) {
    AddRows<code, 2>(values, scales, mins, weights + r * kKeyBlock, shrink + r, o + r * o_stride, o_stride);
  }
  if (r < rows) AddRows<code, 1>(values, scales, mins, weights + r * kKeyBlock, shrink + r, o + r * o_stride, o_stride);
}

void DotCodes(const CodedVectors& keys, int rows, const float* q, int q_stride, float* scores) {
  switch (keys.code) {
    case Code::kF32:
      return DotAs<Code::kF32>(keys, rows, q, q_stride, scores);
    case Code::kBF16:
      return DotAs<Code::kBF16>(keys, rows, q, q_stride, scores);
    case Code::kF8:
      return DotAs<Code::kF8>(keys, rows, q, q_stride, scores);
    case Code::kU8:
      return DotAs<Code::kU8>(keys, rows, q, q_stride, scores);
    case Code::kU4:
      return DotAs<Code::kU4>(keys, rows, q, q_stride, scores);
    default:
      __builtin_trap();
  }
}

void AddCodes(const CodedVectors& values, int rows, const float* weights, const float* shrink, float* o, int o_stride) {
  switch (values.code) {
    case Code::kF32:
      return AddAs<Code::kF32>(values, rows, weights, shrink, o, o_stride);
    case Code::kBF16:
      return AddAs<Code::kBF16>(values, rows, weights, shrink, o, o_stride);
    case Code::kF8:
      return AddAs<Code::kF8>(values, rows, weights, shrink, o, o_stride);
    case Code::kU8:
      return AddAs<Code::kU8>(values, rows, weights, shrink, o, o_stride);
    case Code::kU4:
      return AddAs<Code::kU4>(values, rows, weights, shrink, o, o_stride);
    default:
      __builtin_trap();
  }
}

}  // namespace
}  // namespace duo::cpu
