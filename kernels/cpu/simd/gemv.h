// Few activation rows times many weight rows: the codes are read once, in order, and decoded in registers.
#pragma once

#include "kernels/cpu/simd/codecs.h"

namespace duo::cpu {
namespace {

// Columns in the order of the code vectors: for nibbles, each run of 2 * kLanes columns as its even ones, then its odd
// ones.
void GemvPrepare(Code code, const float* x, int64_t cols, float* out) {
  const int64_t padded = (cols + kColumnBlock - 1) / kColumnBlock * kColumnBlock;
  for (int64_t c = 0; c < padded; ++c) {
    int64_t from = c;
    if (IsNibbles(code)) {
      const int64_t run = c / (2 * kLanes) * (2 * kLanes), i = c - run;
      from = run + (i < kLanes ? 2 * i : 2 * (i - kLanes) + 1);
    }
    out[c] = from < cols ? x[from] : 0.0f;
  }
}

// Weight rows done together: as many sums as the registers hold.
template <int kRows>
constexpr int kOutsAtOnce = kRows >= 8   ? (kLanes == 16 ? 2 : 1)
                            : kRows >= 4 ? 2
                                         : 4;

template <Code code, int kRows, int kOuts>
DUO_INLINE void GemvBlock(const GemvWork& w, int64_t first) {
  constexpr int kUnitBytes = kLanes * CodeBits(code) / 8;
  const uint8_t* codes[kOuts];
  F sums[kOuts][kRows] = {};
#pragma GCC unroll 8
  for (int o = 0; o < kOuts; ++o) codes[o] = w.codes + (first + o) * w.row_bytes;
  int64_t c = 0;
  const auto step = [&](int o, F value) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sums[o][r] = Fma(value, Load(w.x + r * w.x_stride + c), sums[o][r]);
  };
  for (; c + kLanes <= w.cols; c += kLanes) {
#pragma GCC unroll 8
    for (int o = 0; o < kOuts; ++o) {
      const uint8_t* at = codes[o] + c * CodeBits(code) / 8;
      __builtin_prefetch(at + kOuts * w.row_bytes);
      step(o, LoadCodes<code>(at));
    }
  }
  if (c < w.cols) {
#pragma GCC unroll 8
    for (int o = 0; o < kOuts; ++o) {
      uint8_t padded[kUnitBytes] = {};
      __builtin_memcpy(padded, codes[o] + c * CodeBits(code) / 8, (w.cols - c) * CodeBits(code) / 8);
      step(o, LoadCodes<code>(padded));
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < kOuts; ++o) {
    const float scale = (w.scales != nullptr ? w.scales[first + o] : 1.0f) * kCodeScale<code>;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) w.y[r * w.y_stride + first + o] = Sum(sums[o][r]) * scale;
  }
}

// kF8 with a scale for each block of rows and columns: sum over blocks of scale * (codes . x). A block's columns are
// whole vectors, but for the last one's.
template <Code code, int kRows, int kOuts>
DUO_INLINE void GemvScaleBlock(const GemvWork& w, int64_t first) {
  constexpr int kUnitBytes = kLanes * CodeBits(code) / 8;
  const int64_t across = (w.cols + w.group - 1) / w.group;
  const uint8_t* codes[kOuts];
  const float* scales[kOuts];
  F sums[kOuts][kRows] = {};
#pragma GCC unroll 8
  for (int o = 0; o < kOuts; ++o) {
    codes[o] = w.codes + (first + o) * w.row_bytes;
    scales[o] = w.scales + (w.past + first + o) / w.scale_rows * across;
  }
  for (int64_t g = 0; g < across; ++g) {
    const int64_t end = (g + 1) * w.group < w.cols ? (g + 1) * w.group : w.cols;
    F of_block[kOuts][kRows] = {};
    int64_t c = g * w.group;
    const auto step = [&](int o, F value) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) of_block[o][r] = Fma(value, Load(w.x + r * w.x_stride + c), of_block[o][r]);
    };
    for (; c + kLanes <= end; c += kLanes) {
#pragma GCC unroll 8
      for (int o = 0; o < kOuts; ++o) {
        const uint8_t* at = codes[o] + c * CodeBits(code) / 8;
        __builtin_prefetch(at + kOuts * w.row_bytes);
        step(o, LoadCodes<code>(at));
      }
    }
    if (c < end) {
#pragma GCC unroll 8
      for (int o = 0; o < kOuts; ++o) {
        uint8_t padded[kUnitBytes] = {};
        __builtin_memcpy(padded, codes[o] + c * CodeBits(code) / 8, (end - c) * CodeBits(code) / 8);
        step(o, LoadCodes<code>(padded));
      }
    }
#pragma GCC unroll 8
    for (int o = 0; o < kOuts; ++o) {
      const F scale = Splat(scales[o][g] * kCodeScale<code>);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[o][r] = Fma(scale, of_block[o][r], sums[o][r]);
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < kOuts; ++o) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) w.y[r * w.y_stride + first + o] = Sum(sums[o][r]);
  }
}

constexpr int kGroupsAtOnce = 32;

// `count` unscaled codes to f32. What is left of whole vectors is decoded with what lies before it: a copy of a few
// codes, a row at a time, took as long as the row's products.
template <Code code>
DUO_INLINE void DecodeParams(const void* codes, int count, float* out) {
  const auto* p = (const uint8_t*)codes;
  if (count < kLanes) return DecodeAll<code>(p, 1.0f, 0.0f, count, out);
  for (int i = 0; i + kLanes <= count; i += kLanes) StoreAs(out + i, LoadCodes<code>(p + i * CodeBits(code) / 8));
  if (count % kLanes == 0) return;
  StoreAs(out + count - kLanes, LoadCodes<code>(p + (count - kLanes) * CodeBits(code) / 8));
}

// The scales and minima of `count` groups of a weight row from group g0 on, a multiple of kGroupsAtOnce, in pairs.
// params: room for kGroupsAtOnce.
DUO_INLINE void GroupParams(const GemvWork& w, int64_t out, int64_t g0, int count, float* params) {
  const int64_t groups = w.cols / w.group;
  if (w.exponents != nullptr) {
    const uint8_t* exponents = w.exponents + out * groups + g0;
    for (int g = 0; g < count; ++g) {
      const uint32_t bits = exponents[g] == 0 ? 0x400000u : (uint32_t)exponents[g] << 23;  // 2^-127 is subnormal
      __builtin_memcpy(params + 2 * g, &bits, 4);
      params[2 * g + 1] = 0.0f;
    }
    return;
  }
  if (w.subs == nullptr) {
    DecodeParams<Code::kF16>(w.groups + 2 * (out * groups + g0), 2 * count, params);
    return;
  }
  // Each group's small numbers times its block's pair. Blocks are of 1 to 16 groups, a power of two.
  DecodeParams<Code::kI8>(w.subs + 2 * (out * groups + g0), 2 * count, params);
  const int shift = __builtin_ctz((unsigned)(w.block / w.group));
  const int64_t first = out * (w.cols / w.block) + (g0 >> shift);
  int64_t pairs[kGroupsAtOnce], of_groups[kGroupsAtOnce];  // two f32 each
  DecodeParams<Code::kF16>(w.groups + 2 * first, 2 * (((count - 1) >> shift) + 1), (float*)pairs);
  for (int g = 0; g < count; ++g) __builtin_memcpy(&of_groups[g], &pairs[g >> shift], 8);
  for (int i = 0; i < 2 * kGroupsAtOnce; i += kLanes)  // the caller clears what is beyond `count`
    StoreAs(params + i, Load(params + i) * LoadAs<F>((const float*)of_groups + i));
}

constexpr int kSpanGroups = 256;

// The sums of x over the groups [begin, end) of each row, each behind a zero: as pairs of scale and minimum lie, so
// that the minima's part of a product is one dot product.
template <Code code, int kRows>
DUO_INLINE void GroupSums(const GemvWork& w, int64_t begin, int64_t end, float (*sums)[2 * kSpanGroups]) {
  for (int r = 0; r < kRows; ++r) {
    for (int64_t g = begin; g < end; ++g) {
      const float* x = w.x + r * w.x_stride + g * w.group;
      F sum = {};
      for (int c = 0; c < w.group; c += kLanes) sum += Load(x + c);
      sums[r][2 * (g - begin)] = 0.0f;
      sums[r][2 * (g - begin) + 1] = Sum(sum);
    }
    for (int64_t i = 2 * (end - begin); i % kLanes != 0; ++i) sums[r][i] = 0.0f;
  }
}

// Codes in groups: sum over groups of scale * (codes . x) + min * (sum of x), of the groups [begin, end).
template <Code code, int kRows, int kOuts>
DUO_INLINE void GemvGroupBlock(const GemvWork& w, int64_t first, int64_t begin, int64_t end,
                               const float (*x_sums)[2 * kSpanGroups]) {
  constexpr int kStep = IsNibbles(code) ? 2 * kLanes : kLanes;  // columns
  const int64_t group_bytes = w.group * CodeBits(code) / 8;
  F sums[kOuts][kRows] = {}, of_minima[kOuts][kRows] = {};
  for (int64_t g0 = begin; g0 < end; g0 += kGroupsAtOnce) {
    const int count = (int)(end - g0 < kGroupsAtOnce ? end - g0 : kGroupsAtOnce);
    float params[kOuts][2 * kGroupsAtOnce];
#pragma GCC unroll 8
    for (int o = 0; o < kOuts; ++o) {
      GroupParams(w, first + o, g0, count, params[o]);
      for (int i = 2 * count; i % kLanes != 0; ++i) params[o][i] = 0.0f;  // meets zeros, and must not be a NaN
      for (int i = 0; i < 2 * count; i += kLanes) {
        const F pairs = Load(params[o] + i);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
          of_minima[o][r] = Fma(pairs, Load(x_sums[r] + 2 * (g0 - begin) + i), of_minima[o][r]);
      }
    }
    for (int g = 0; g < count; ++g) {
      F group_sums[kOuts][kRows] = {};
      // The next rows' codes, which lie one behind the other.
      const uint8_t* ahead = w.codes + (first + kOuts) * w.row_bytes + (g0 + g) * kOuts * group_bytes;
      for (int64_t i = 0; i < kOuts * group_bytes; i += 64) __builtin_prefetch(ahead + i);
      for (int64_t c = (g0 + g) * w.group, last = c + w.group; c < last; c += kStep) {
#pragma GCC unroll 8
        for (int o = 0; o < kOuts; ++o) {
          const uint8_t* at = w.codes + (first + o) * w.row_bytes + c * CodeBits(code) / 8;
          if constexpr (IsNibbles(code)) {
            const Nibbles n = LoadNibbles<code>(at);

#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
              const float* x = w.x + r * w.x_stride + c;  // the even columns, then the odd ones
              group_sums[o][r] = Fma(n.odd, Load(x + kLanes), Fma(n.even, Load(x), group_sums[o][r]));
            }
          } else {
            const F value = LoadCodes<code>(at);

#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r)
              group_sums[o][r] = Fma(value, Load(w.x + r * w.x_stride + c), group_sums[o][r]);
          }
        }
      }
#pragma GCC unroll 8
      for (int o = 0; o < kOuts; ++o) {
        const F scale = Splat(params[o][2 * g]);

#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sums[o][r] = Fma(scale, group_sums[o][r], sums[o][r]);
      }
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < kOuts; ++o) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      float& y = w.y[r * w.y_stride + first + o];
      y = (begin > 0 ? y : 0.0f) + Sum(sums[o][r] + of_minima[o][r]);
    }
  }
}

template <Code code, int kRows>
void GemvGroups(const GemvWork& w) {
  constexpr int kOuts = kOutsAtOnce<kRows>;
  const int64_t groups = w.cols / w.group;
  float x_sums[kRows][2 * kSpanGroups];
  for (int64_t begin = 0; begin < groups; begin += kSpanGroups) {
    const int64_t end = groups - begin < kSpanGroups ? groups : begin + kSpanGroups;
    GroupSums<code, kRows>(w, begin, end, x_sums);
    int64_t o = 0;
    for (; o + kOuts <= w.outs; o += kOuts) GemvGroupBlock<code, kRows, kOuts>(w, o, begin, end, x_sums);
    for (; o < w.outs; ++o) GemvGroupBlock<code, kRows, 1>(w, o, begin, end, x_sums);
  }
}

template <Code code, int kRows>
void GemvAll(const GemvWork& w) {
  constexpr int kOuts = kOutsAtOnce<kRows>;
  if constexpr (IsNibbles(code)) return GemvGroups<code, kRows>(w);
  if constexpr (code == Code::kI8) {
    if (w.group > 0) return GemvGroups<code, kRows>(w);
  }
  if constexpr (code == Code::kF8) {
    if (w.group > 0) {
      int64_t o = 0;
      for (; o + kOuts <= w.outs; o += kOuts) GemvScaleBlock<code, kRows, kOuts>(w, o);
      for (; o < w.outs; ++o) GemvScaleBlock<code, kRows, 1>(w, o);
      return;
    }
  }
  if constexpr (!IsNibbles(code)) {
    int64_t o = 0;
    for (; o + kOuts <= w.outs; o += kOuts) GemvBlock<code, kRows, kOuts>(w, o);
    for (; o < w.outs; ++o) GemvBlock<code, kRows, 1>(w, o);
  }
}

template <Code code>
void GemvRows(const GemvWork& w) {
  switch (w.rows) {
    case 1:
      return GemvAll<code, 1>(w);
    case 2:
      return GemvAll<code, 2>(w);
    case 4:
      return GemvAll<code, 4>(w);
    case 8:
      return GemvAll<code, 8>(w);
    default:
      __builtin_trap();
  }
}

void Gemv(const GemvWork& w) {
  switch (w.code) {
    case Code::kF32:
      return GemvRows<Code::kF32>(w);
    case Code::kF16:
      return GemvRows<Code::kF16>(w);
    case Code::kBF16:
      return GemvRows<Code::kBF16>(w);
    case Code::kF8:
      return GemvRows<Code::kF8>(w);
    case Code::kI8:
      return GemvRows<Code::kI8>(w);
    case Code::kU4:
      return GemvRows<Code::kU4>(w);
    case Code::kIq4:
      return GemvRows<Code::kIq4>(w);
    case Code::kE2M1:
      return GemvRows<Code::kE2M1>(w);
    case Code::kU8:
      __builtin_trap();  // not a weight format
  }
}

}  // namespace
}  // namespace duo::cpu
