// Naive references for the kernels: f64 for the truth, and the plain path at working precision whose error sets the
// tolerance. An op may err at most twice as much as the plain path, or by a few units of the output's rounding.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/kv_codec.h"

namespace duo {

inline float Rounded(DType type, float x) {
  return type == DType::kBF16 ? ToFloat(ToBf16(x)) : type == DType::kF16 ? ToFloat(ToF16(x)) : x;
}
// Half a unit in the last place of 1.
inline double UnitRoundoff(DType type) {
  return type == DType::kBF16 ? 0.00390625 : type == DType::kF16 ? 0.00048828125 : 5.9604644775390625e-8;
}

inline double MaxError(const std::vector<float>& x, const std::vector<double>& truth) {
  EXPECT_EQ(x.size(), truth.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = std::abs(x[i] - truth[i]);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst;
}
inline double MaxMagnitude(const std::vector<double>& x) {
  double worst = 0;
  for (double v : x) worst = std::max(worst, std::abs(v));
  return worst;
}
// `got` errs at most twice as much as `plain`, plus four roundings of the largest result (the plain path may happen to
// be exact).
inline void ExpectAsGoodAs(const std::vector<float>& got, const std::vector<float>& plain,
                           const std::vector<double>& truth, DType type, const std::string& what) {
  const double allowed = 2 * MaxError(plain, truth) + 4 * UnitRoundoff(type) * MaxMagnitude(truth);
  EXPECT_LE(MaxError(got, truth), allowed) << what;
}

// Attention of one query row over the keys it sees.
struct AttentionRow {
  std::vector<double> o;
  double lse = -INFINITY;
};
// keys and values: pointers to [d] f32 each.
inline AttentionRow ReferenceAttention(const float* q, const std::vector<const float*>& keys,
                                       const std::vector<const float*>& values, int d) {
  AttentionRow row{std::vector<double>(d, 0.0)};
  std::vector<double> s(keys.size());
  double top = -INFINITY, sum = 0;
  for (size_t j = 0; j < keys.size(); ++j) {
    for (int i = 0; i < d; ++i) s[j] += double{q[i]} * keys[j][i];
    s[j] /= std::sqrt(double(d));
    top = std::max(top, s[j]);
  }
  if (keys.empty()) return row;
  for (double& x : s) sum += x = std::exp(x - top);
  for (size_t j = 0; j < keys.size(); ++j) {
    for (int i = 0; i < d; ++i) row.o[i] += s[j] / sum * values[j][i];
  }
  row.lse = top + std::log(sum);
  return row;
}
// The plain path: f32 sums in order; keys, values, probabilities and results rounded to `type`.
struct PlainAttentionRow {
  std::vector<float> o;
  float lse = -INFINITY;
};
inline PlainAttentionRow PlainAttention(const float* q, const std::vector<const float*>& keys,
                                        const std::vector<const float*>& values, int d, DType type) {
  PlainAttentionRow row{std::vector<float>(d, 0.0f)};
  std::vector<float> s(keys.size());
  float top = -INFINITY, sum = 0;
  for (size_t j = 0; j < keys.size(); ++j) {
    for (int i = 0; i < d; ++i) s[j] += q[i] * Rounded(type, keys[j][i]);
    s[j] *= 1.0f / std::sqrt(static_cast<float>(d));
    top = std::max(top, s[j]);
  }
  if (keys.empty()) return row;
  for (float& x : s) sum += x = std::exp(x - top);
  for (size_t j = 0; j < keys.size(); ++j) {
    for (int i = 0; i < d; ++i) row.o[i] += Rounded(type, s[j]) * Rounded(type, values[j][i]);
  }
  for (float& x : row.o) x = Rounded(type, x / sum);
  row.lse = top + std::log(sum);
  return row;
}

// A vector's stored form by the scalar functions of kv_codec.h: the bytes every backend must produce.
struct StoredVector {
  std::vector<uint8_t> codes, params;
  std::vector<float> decoded;
};
inline StoredVector ReferenceStore(KvFormat f, const float* x, int d) {
  StoredVector v;
  v.codes.resize(KvCodeBytes(f, d));
  v.params.resize(KvParamBytes(f));
  v.decoded.assign(x, x + d);
  if (f == KvFormat::kF32) {
    memcpy(v.codes.data(), x, 4 * d);
  } else if (f == KvFormat::kBF16) {
    for (int i = 0; i < d; ++i) {
      const bf16 b = ToBf16(x[i]);
      memcpy(&v.codes[2 * i], &b, 2);
      v.decoded[i] = ToFloat(b);
    }
  } else {
    const KvParams p = KvParamsFor(f, *std::min_element(x, x + d), *std::max_element(x, x + d));
    memcpy(v.params.data(), &p, v.params.size());
    for (int i = 0; i < d; ++i) {
      const uint8_t code = KvEncode(f, x[i], p, KvInverseScale(p));
      if (f == KvFormat::kInt4) {
        v.codes[i / 2] = i % 2 == 0 ? code : v.codes[i / 2] | code << 4;
      } else {
        v.codes[i] = code;
      }
      v.decoded[i] = KvDecode(f, code, p);
    }
  }
  return v;
}

}  // namespace duo
