// Attention's tile arithmetic, activation and the loops that measure the machine.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd/vector.h"

namespace duo::cpu {
namespace {

// Rows and vectors of columns whose sums fill the registers, leaving room for a row of b and one broadcast of a.
constexpr int kTallest = kLanes == 16 ? 6 : kLanes == 8 ? 6 : 4;
constexpr int kWidest = kLanes == 16 ? 4 : 2;

template <int kRows, int kVectors>
DUO_INLINE void MultiplyTile(int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc,
                             const float* scale) {
  F sums[kRows][kVectors] = {};
  if (scale != nullptr) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Load(c + r * ldc + v * kLanes) * Splat(scale[r]);
    }
  }
  for (int k = 0; k < depth; ++k) {
    F line[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) line[v] = Load(b + k * ldb + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F x = Splat(a[r * lda + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Fma(x, line[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) StoreAs(c + r * ldc + v * kLanes, sums[r][v]);
  }
}

template <int kRows>
void MultiplyRows(int cols, int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc,
                  const float* scale) {
  int col = 0;
  for (; col + kWidest * kLanes <= cols; col += kWidest * kLanes) {
    MultiplyTile<kRows, kWidest>(depth, a, lda, b + col, ldb, c + col, ldc, scale);
  }
  for (; col < cols; col += kLanes) MultiplyTile<kRows, 1>(depth, a, lda, b + col, ldb, c + col, ldc, scale);
}

void Multiply(int rows, int cols, int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc,
              const float* scale) {
  while (rows > 0) {
    const int taken = rows >= kTallest ? kTallest : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
    switch (taken) {
      case kTallest:
        MultiplyRows<kTallest>(cols, depth, a, lda, b, ldb, c, ldc, scale);
        break;
#if DUO_LANES > 4
      case 4:
        MultiplyRows<4>(cols, depth, a, lda, b, ldb, c, ldc, scale);
        break;
#endif
      case 2:
        MultiplyRows<2>(cols, depth, a, lda, b, ldb, c, ldc, scale);
        break;
      default:
        MultiplyRows<1>(cols, depth, a, lda, b, ldb, c, ldc, scale);
    }
    rows -= taken;
    a += taken * lda;
    c += taken * ldc;
    if (scale != nullptr) scale += taken;
  }
}

// A kLanes x kLanes block: log2(kLanes) perfect shuffles of the rows transpose it.
DUO_INLINE void TransposeBlock(const float* rows, int stride, float* out, int out_stride) {
  F v[kLanes], w[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) v[i] = Load(rows + i * stride);
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      w[2 * i] = InterleaveLow(v[i], v[i + kLanes / 2]);
      w[2 * i + 1] = InterleaveHigh(v[i], v[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) v[i] = w[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) StoreAs(out + i * out_stride, v[i]);
}

void Transpose(const float* rows, int stride, int count, int d, float* keys) {
  for (int key = 0; key < count; key += kLanes) {
    for (int i = 0; i < d; i += kLanes)
      TransposeBlock(rows + key * stride + i, stride, keys + i * kKeyBlock + key, kKeyBlock);
  }
}

void Softmax(int rows, float* scores, float* top, float* sum, float* shrink) {
  for (int r = 0; r < rows; ++r) {
    const float* s = scores + r * kKeyBlock;
    F best = Load(s);
#pragma GCC unroll 16
    for (int i = kLanes; i < kKeyBlock; i += kLanes) best = Max(best, Load(s + i));
    const float highest = Largest(best), old = top[r];
    top[r] = highest > old ? highest : old;
    shrink[r] = top[r] == -__builtin_inff() ? 0.0f : old - top[r];
  }
  int r = 0;
  for (; r + kLanes <= rows; r += kLanes) StoreAs(shrink + r, Exp(Load(shrink + r)));
  if (r < rows) {
    float padded[kLanes] = {};
    __builtin_memcpy(padded, shrink + r, (rows - r) * sizeof(float));
    StoreAs(padded, Exp(Load(padded)));
    __builtin_memcpy(shrink + r, padded, (rows - r) * sizeof(float));
  }
  for (r = 0; r < rows; ++r) {
    float* s = scores + r * kKeyBlock;
    // With nothing seen all scores are -inf, and -inf - 0 keeps them so.
    const F highest = Splat(top[r] == -__builtin_inff() ? 0.0f : top[r]);
    F total = {};
#pragma GCC unroll 16
    for (int i = 0; i < kKeyBlock; i += kLanes) {
      const F p = Exp(Load(s + i) - highest);
      StoreAs(s + i, p);
      total += p;
    }
    sum[r] = sum[r] * shrink[r] + Sum(total);
  }
}

void SoftmaxGradient(int rows, float* scores, float* gradients, const float* lse, const float* delta) {
  for (int r = 0; r < rows; ++r) {
    float *s = scores + r * kKeyBlock, *g = gradients + r * kKeyBlock;
    const F log_sum = Splat(lse[r]), mean = Splat(delta[r]);
#pragma GCC unroll 16
    for (int i = 0; i < kKeyBlock; i += kLanes) {
      const F p = Exp(Load(s + i) - log_sum);
      StoreAs(s + i, p);
      StoreAs(g + i, p * (Load(g + i) - mean));
    }
  }
}

void SwiGluRow(const float* gate, const float* up, int64_t count, float* out) {
  const auto unit = [](F g, F u) __attribute__((always_inline)) {
    return g / (Splat(1.0f) + Exp(Min(-g, Splat(88.0f)))) * u;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) StoreAs(out + i, unit(Load(gate + i), Load(up + i)));
  if (i < count) {
    float g[kLanes] = {}, u[kLanes] = {};
    __builtin_memcpy(g, gate + i, (count - i) * sizeof(float));
    __builtin_memcpy(u, up + i, (count - i) * sizeof(float));
    StoreAs(g, unit(Load(g), Load(u)));
    __builtin_memcpy(out + i, g, (count - i) * sizeof(float));
  }
}

void SwiGluGradientRow(const float* gate, const float* up, const float* d_out, int64_t count, float* d_gate,
                       float* d_up) {
  // silu(g) = g s with s = 1 / (1 + exp(-g)), and silu'(g) = s (1 + g (1 - s)).
  const auto unit = [](F g, F u, F d, F & dg, F & du) __attribute__((always_inline)) {
    const F one = Splat(1.0f), s = one / (one + Exp(Min(-g, Splat(88.0f))));
    dg = d * u * s * (one + g * (one - s));
    du = d * g * s;
  };
  F dg, du;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    unit(Load(gate + i), Load(up + i), Load(d_out + i), dg, du);
    StoreAs(d_gate + i, dg);
    StoreAs(d_up + i, du);
  }
  if (i < count) {
    float g[kLanes] = {}, u[kLanes] = {}, d[kLanes] = {};
    __builtin_memcpy(g, gate + i, (count - i) * sizeof(float));
    __builtin_memcpy(u, up + i, (count - i) * sizeof(float));
    __builtin_memcpy(d, d_out + i, (count - i) * sizeof(float));
    unit(Load(g), Load(u), Load(d), dg, du);
    StoreAs(g, dg);
    StoreAs(u, du);
    __builtin_memcpy(d_gate + i, g, (count - i) * sizeof(float));
    __builtin_memcpy(d_up + i, u, (count - i) * sizeof(float));
  }
}

double MultiplyAddRounds(int64_t rounds, float* sink) {
  constexpr int kChains = kLanes == 16 ? 16 : 12;
  const F a = Splat(sink[0]), b = Splat(sink[1]);
  F chains[kChains];  // each begins elsewhere: the compiler would make one of equal ones
  for (int c = 0; c < kChains; ++c) chains[c] = Splat(sink[0] * static_cast<float>(c + 1));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) chains[c] = Fma(chains[c], a, b);
  }
  F total = {};
  for (int c = 0; c < kChains; ++c) total += chains[c];
  sink[2] = Sum(total);
  return 2.0 * kChains * kLanes * rounds;
}

float Read(const float* x, int64_t count) {
  constexpr int kStreams = 4;  // as many as Gemv reads at once: one alone does not fill the memory's queues
  const int64_t part = count / kStreams / kLanes * kLanes;
  F sums[kStreams] = {};
  for (int64_t i = 0; i < part; i += kLanes) {
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; ++s) sums[s] += Load(x + s * part + i);
  }
  float total = Sum(sums[0] + sums[1] + sums[2] + sums[3]);
  for (int64_t i = kStreams * part; i < count; ++i) total += x[i];
  return total;
}

}  // namespace
}  // namespace duo::cpu
