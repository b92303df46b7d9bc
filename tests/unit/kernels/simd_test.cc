// Every instruction set's inner loops against plain loops: the one that this processor would choose is tested by the
// ops' own tests, the others only here.
#include "kernels/cpu/simd.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "devices.h"
#include "kernels/kv_codec.h"
#include "reference.h"
#include "simd_tables.h"

namespace duo::cpu {
namespace {

TEST(Simd, TheBestTableIsTheFirstAndTheGenericOneIsAlwaysThere) {
  EXPECT_EQ(Tables().front(), &Simd());
  EXPECT_EQ(Tables().back(), &kGenericKernels);
}

TEST(Simd, DecodesEveryF16AndBf16) {
  std::vector<uint16_t> codes(65536);
  for (int i = 0; i < 65536; ++i) codes[i] = static_cast<uint16_t>(i);
  for (const SimdKernels* simd : Tables()) {
    std::vector<float> h(65536), b(65536);
    simd->decode(Code::kF16, codes.data(), 1, 0, 65536, h.data());
    simd->decode(Code::kBF16, codes.data(), 1, 0, 65536, b.data());
    for (int i = 0; i < 65536; ++i) {
      const float f = ToFloat(f16{codes[i]}), g = ToFloat(bf16{codes[i]});
      ASSERT_TRUE(std::isnan(f) ? std::isnan(h[i]) : FloatBits(f) == FloatBits(h[i])) << simd->name << " f16 " << i;
      ASSERT_EQ(FloatBits(g), FloatBits(b[i])) << simd->name << " bf16 " << i;
    }
  }
}

TEST(Simd, CodesBytesAsTheScalarFunctions) {
  std::mt19937 rng(1);
  for (const SimdKernels* simd : Tables()) {
    for (int count : {1, 2, 7, 15, 16, 17, 31, 32, 33, 100, 255, 257}) {
      std::vector<uint8_t> codes(2 * count);
      for (uint8_t& c : codes) c = static_cast<uint8_t>(rng());
      std::vector<float> got(count + 1, 5.0f);
      const KvParams p{ToF16(0.0371f), ToF16(-3.3f)};
      const float scale = ToFloat(p.scale), min = ToFloat(p.min);
      simd->decode(Code::kI8, codes.data(), 0.123f, 0, count, got.data());
      for (int i = 0; i < count; ++i) ASSERT_EQ(got[i], static_cast<int8_t>(codes[i]) * 0.123f) << simd->name;
      ASSERT_EQ(got[count], 5.0f);
      simd->decode(Code::kU8, codes.data(), scale, min, count, got.data());
      for (int i = 0; i < count; ++i) ASSERT_EQ(got[i], KvDecode(KvFormat::kInt8, codes[i], p)) << simd->name;
      simd->decode(Code::kU4, codes.data(), scale, min, count, got.data());
      for (int i = 0; i < count; ++i) {
        ASSERT_EQ(got[i], KvDecode(KvFormat::kInt4, codes[i / 2] >> i % 2 * 4 & 15, p)) << simd->name;
      }
      simd->decode(Code::kIq4, codes.data(), 0.5f, 0, count, got.data());
      constexpr int kIq4[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
      for (int i = 0; i < count; ++i) ASSERT_EQ(got[i], 0.5f * kIq4[codes[i / 2] >> i % 2 * 4 & 15]) << simd->name;
      simd->decode(Code::kE2M1, codes.data(), 4.0f, 0, count, got.data());
      for (int i = 0; i < count; ++i) {
        const int code = codes[i / 2] >> i % 2 * 4 & 15, exponent = code >> 1 & 3, mantissa = code & 1;
        const float size = exponent == 0 ? 0.5f * mantissa : std::ldexp(2.0f + mantissa, exponent - 2);
        ASSERT_EQ(got[i], 4.0f * (code > 7 ? -size : size)) << simd->name << " " << code;
      }
      simd->decode(Code::kF8, codes.data(), scale, 0, count, got.data());
      for (int i = 0; i < count; ++i) {
        const float expected = F8ToFloat(codes[i]) * scale;
        ASSERT_TRUE(std::isnan(expected) ? std::isnan(got[i]) : got[i] == expected) << simd->name << " " << +codes[i];
      }

      std::vector<float> x(count);
      for (float& v : x) v = std::ldexp(static_cast<float>(rng()) / 4294967296.0f - 0.5f, rng() % 30 - 15);
      if (count > 3) {
        x[0] = NAN;
        x[1] = INFINITY;
        x[2] = -1e30f;
      }
      std::vector<uint8_t> out(2 * count + 1, 0xa5);
      simd->encode(Code::kU8, x.data(), 27.3f, min, count, out.data());
      const KvParams q{p.scale, p.min};
      for (int i = 0; i < count; ++i) ASSERT_EQ(out[i], KvEncode(KvFormat::kInt8, x[i], q, 27.3f)) << simd->name;
      simd->encode(Code::kF8, x.data(), 27.3f, 0, count, out.data());
      for (int i = 0; i < count; ++i) ASSERT_EQ(out[i], KvEncode(KvFormat::kFp8, x[i], q, 27.3f)) << simd->name;
      simd->encode(Code::kBF16, x.data(), 1, 0, count, out.data());
      for (int i = 0; i < count; ++i) ASSERT_EQ(out[2 * i] | out[2 * i + 1] << 8, ToBf16(x[i]).bits) << simd->name;
      ASSERT_EQ(out[2 * count], 0xa5) << "written past the end";
      if (count % 2 == 0) {
        simd->encode(Code::kU4, x.data(), 2.0f, min, count, out.data());
        for (int i = 0; i < count; ++i) {
          ASSERT_EQ(out[i / 2] >> i % 2 * 4 & 15, KvEncode(KvFormat::kInt4, x[i], q, 2.0f)) << simd->name;
        }
      }
    }
  }
}

TEST(Simd, ExtremesAreExact) {
  std::mt19937 rng(2);
  for (const SimdKernels* simd : Tables()) {
    for (int count : {1, 3, 16, 17, 80, 129}) {
      const std::vector<float> x = Normal(rng, count);
      float low = 0, high = 0;
      simd->extremes(x.data(), count, &low, &high);
      EXPECT_EQ(low, *std::min_element(x.begin(), x.end()));
      EXPECT_EQ(high, *std::max_element(x.begin(), x.end()));
    }
  }
}

TEST(Simd, MultiplyIsAMatrixProductForEveryNumberOfRows) {
  std::mt19937 rng(3);
  for (const SimdKernels* simd : Tables()) {
    for (int rows = 1; rows <= 14; ++rows) {
      for (int cols : {16, 48, 64, 80, 128}) {
        for (int depth : {1, 17, 64}) {
          for (bool scaled : {false, true}) {
            const std::vector<float> a = Normal(rng, rows * 70), b = Normal(rng, depth * 130), s = Normal(rng, rows);
            std::vector<float> c = Normal(rng, rows * 133);
            const std::vector<float> before = c;
            simd->multiply(rows, cols, depth, a.data(), 70, b.data(), 130, c.data(), 133, scaled ? s.data() : nullptr);
            for (int r = 0; r < rows; ++r) {
              for (int i = 0; i < 133; ++i) {
                double sum = scaled ? double{before[r * 133 + i]} * s[r] : 0.0, size = std::abs(sum);
                for (int k = 0; k < depth && i < cols; ++k) {
                  sum += double{a[r * 70 + k]} * b[k * 130 + i];
                  size += std::abs(double{a[r * 70 + k]} * b[k * 130 + i]);
                }
                if (i >= cols) {
                  ASSERT_EQ(c[r * 133 + i], before[r * 133 + i]) << "beyond the columns";
                } else {
                  ASSERT_NEAR(c[r * 133 + i], sum, (depth + 2) * 6e-8 * size) << simd->name;
                }
              }
            }
          }
        }
      }
    }
  }
}

// Poison lies behind the last vector, and in what must not be read or must be overwritten.
TEST(Simd, ProductsOfAFewRowsWithCodesMatchThoseWithTheirValues) {
  std::mt19937 rng(7);
  const auto random = [&] { return static_cast<float>(rng()) / 4294967296.0f - 0.5f; };
  const struct {
    Code code;
    int bits, params;
  } formats[] = {{Code::kF32, 32, 0}, {Code::kBF16, 16, 0}, {Code::kF8, 8, 1}, {Code::kU8, 8, 2}, {Code::kU4, 4, 2}};
  for (const SimdKernels* simd : Tables()) {
    for (const auto& format : formats) {
      for (int d : {32, 64, 96, 160, 256}) {
        for (int count : {1, 3, 17, 63, 64}) {
          for (int rows : {1, 2, 3, 4, 7, 8}) {
            const int bytes = d * format.bits / 8, stride = bytes + 12, width = d + 16;
            std::vector<uint8_t> codes(count * stride, 0xff), params(count * format.params * 2 + 1, 0xff);
            std::vector<float> values(count * d);  // as `decode` has them, which has a test of its own
            for (int i = 0; i < count; ++i) {
              const f16 p[2] = {ToF16(0.01f + 0.1f * std::abs(random())), ToF16(random())};
              std::memcpy(params.data() + i * format.params * 2, p, format.params * 2);
              std::vector<float> x(d);
              for (float& v : x) v = random();
              const float scale = format.params > 0 ? ToFloat(p[0]) : 1.0f,
                          min = format.params > 1 ? ToFloat(p[1]) : 0.0f;
              if (format.code == Code::kF32) {
                std::memcpy(codes.data() + i * stride, x.data(), bytes);
              } else {
                simd->encode(format.code, x.data(), 1 / scale, min, d, codes.data() + i * stride);
              }
              simd->decode(format.code, codes.data() + i * stride, scale, min, d, values.data() + i * d);
            }
            const CodedVectors coded{format.code, codes.data(), stride, params.data(), count, d};
            const std::string what = std::string(simd->name) + " code " +
                                     std::to_string(static_cast<int>(format.code)) + " d " + std::to_string(d) +
                                     " count " + std::to_string(count) + " rows " + std::to_string(rows);

            std::vector<float> q(rows * width, NAN), scores(rows * kKeyBlock + 1, NAN);
            for (int r = 0; r < rows; ++r) {
              for (int i = 0; i < d; ++i) q[r * width + i] = random();
            }
            simd->dot_codes(coded, rows, q.data(), width, scores.data());
            ASSERT_TRUE(std::isnan(scores.back())) << what;
            for (int r = 0; r < rows; ++r) {
              for (int key = 0; key < kKeyBlock; ++key) {
                double sum = 0, size = 0;
                for (int i = 0; key < count && i < d; ++i) {
                  const double term = double{q[r * width + i]} * values[key * d + i];
                  sum += term;
                  size += std::abs(term);
                }
                // d / 16 and more partial sums, each rounded once per term.
                ASSERT_NEAR(scores[r * kKeyBlock + key], sum, size * d * 0x1p-24) << what << " key " << key;
              }
            }

            std::vector<float> weights(rows * kKeyBlock, NAN), shrink(rows), o(rows * width, NAN);
            for (int r = 0; r < rows; ++r) {
              shrink[r] = r % 3 == 0 ? 0.0f : std::abs(random());
              for (int key = 0; key < count; ++key) weights[r * kKeyBlock + key] = std::abs(random());
              for (int i = 0; i < d; ++i) o[r * width + i] = random();
            }
            const std::vector<float> before = o;
            simd->add_codes(coded, rows, weights.data(), shrink.data(), o.data(), width);
            for (int r = 0; r < rows; ++r) {
              for (int i = 0; i < d; ++i) {
                double sum = double{shrink[r]} * before[r * width + i], size = std::abs(sum);
                for (int key = 0; key < count; ++key) {
                  const double term = double{weights[r * kKeyBlock + key]} * values[key * d + i];
                  sum += term;
                  size += std::abs(term);
                }
                ASSERT_NEAR(o[r * width + i], sum, size * (count + 1) * 0x1p-24) << what << " channel " << i;
              }
              for (int i = d; i < width; ++i) ASSERT_TRUE(std::isnan(o[r * width + i])) << what;
            }
          }
        }
      }
    }
  }
}

TEST(Simd, TransposeFillsTheKeysOfATile) {
  std::mt19937 rng(4);
  for (const SimdKernels* simd : Tables()) {
    for (int d : {16, 80, 128}) {
      for (int count : {1, 17, 64}) {
        const std::vector<float> x = Normal(rng, kKeyBlock * (d + 3));
        std::vector<float> keys(d * kKeyBlock, NAN);
        simd->transpose(x.data(), d + 3, count, d, keys.data());
        for (int i = 0; i < d; ++i) {
          for (int k = 0; k < count; ++k) ASSERT_EQ(keys[i * kKeyBlock + k], x[k * (d + 3) + i]) << simd->name;
        }
      }
    }
  }
}

TEST(Simd, SoftmaxFollowsTheRunningMaximumToAFewUnitsInTheLastPlace) {
  std::mt19937 rng(5);
  for (const SimdKernels* simd : Tables()) {
    const int rows = 37;
    std::vector<float> scores = Normal(rng, rows * kKeyBlock, 20.0f), top = Normal(rng, rows, 20.0f), sum(rows, 2.0f),
                       shrink(rows, NAN);
    std::fill_n(scores.begin(), kKeyBlock, -INFINITY);  // row 0: nothing seen, before or now
    top[0] = -INFINITY;
    sum[0] = 0;
    std::fill_n(scores.begin() + kKeyBlock, kKeyBlock, -INFINITY);  // row 1: nothing new
    top[2] = -INFINITY;                                             // row 2: the first that it sees
    sum[2] = 0;
    const std::vector<float> before = scores, old = top, old_sum = sum;
    simd->softmax(rows, scores.data(), top.data(), sum.data(), shrink.data());
    for (int r = 0; r < rows; ++r) {
      double best = old[r], total = 0;
      for (int i = 0; i < kKeyBlock; ++i) best = std::max(best, double{before[r * kKeyBlock + i]});
      ASSERT_EQ(top[r], static_cast<float>(best));
      for (int i = 0; i < kKeyBlock; ++i) {
        const double p = best == -INFINITY ? 0.0 : std::exp(static_cast<double>(before[r * kKeyBlock + i] - top[r]));
        ASSERT_NEAR(scores[r * kKeyBlock + i], p, 2e-7 * p + 1e-37) << simd->name << " row " << r;
        total += p;
      }
      if (r == 0) {
        EXPECT_EQ(sum[r], 0.0f);
        continue;
      }
      const double kept = std::exp(static_cast<double>(old[r] - top[r]));
      ASSERT_NEAR(shrink[r], kept, 2e-7 * kept + 1e-37) << simd->name;
      ASSERT_NEAR(sum[r], old_sum[r] * kept + total, 2e-6 * (2 + total)) << simd->name;
    }
  }
}

TEST(Simd, GemvMatchesForEveryCodeAndNumberOfRows) {
  std::mt19937 rng(6);
  for (const SimdKernels* simd : Tables()) {
    for (Code code : {Code::kF32, Code::kF16, Code::kBF16, Code::kF8, Code::kI8, Code::kU4, Code::kIq4, Code::kE2M1}) {
      const bool powers = code == Code::kE2M1, grouped = code == Code::kU4 || code == Code::kIq4 || powers;
      for (int64_t cols : {32, 96, 129, 1000}) {
        if (grouped && cols % 32 != 0) continue;
        const int64_t outs = 7, padded = (cols + kColumnBlock - 1) / kColumnBlock * kColumnBlock;
        const int64_t row_bytes = code == Code::kF32                          ? 4 * cols
                                  : code == Code::kF16 || code == Code::kBF16 ? 2 * cols
                                  : grouped                                   ? cols / 2
                                                                              : cols;
        std::vector<uint8_t> codes(outs * row_bytes);
        for (uint8_t& c : codes) c = static_cast<uint8_t>(rng() % 120);  // finite in every format
        std::vector<uint16_t> groups(outs * cols / 32 * 2);
        for (uint16_t& g : groups) g = ToF16(static_cast<float>(rng() % 100) / 50 - 1).bits;
        std::vector<uint8_t> exponents(outs * cols / 32);
        for (size_t i = 0; i < exponents.size(); ++i) {
          exponents[i] = static_cast<uint8_t>(120 + rng() % 8);
          if (!powers) continue;  // else what the reference decodes by
          groups[2 * i] = ToF16(std::ldexp(1.0f, exponents[i] - 127)).bits;
          groups[2 * i + 1] = 0;
        }
        const std::vector<float> scales = Normal(rng, outs), x = Normal(rng, 8 * cols);
        for (int rows : {1, 2, 4, 8}) {
          std::vector<float> prepared(rows * padded), y(rows * 10, NAN);
          for (int r = 0; r < rows; ++r) simd->gemv_prepare(code, &x[r * cols], cols, &prepared[r * padded]);
          simd->gemv({.code = code,
                      .codes = codes.data(),
                      .row_bytes = row_bytes,
                      .outs = outs,
                      .cols = cols,
                      .scales = grouped ? nullptr : scales.data(),
                      .groups = grouped && !powers ? groups.data() : nullptr,
                      .subs = nullptr,
                      .exponents = powers ? exponents.data() : nullptr,
                      .group = grouped ? 32 : 0,
                      .block = grouped ? 32 : 0,
                      .rows = rows,
                      .x = prepared.data(),
                      .x_stride = padded,
                      .y = y.data(),
                      .y_stride = 10});
          for (int64_t o = 0; o < outs; ++o) {
            std::vector<float> value(cols);
            if (grouped) {
              for (int64_t g = 0; g < cols / 32; ++g) {
                const uint16_t* p = &groups[2 * (o * (cols / 32) + g)];
                kGenericKernels.decode(code, &codes[o * row_bytes + g * 16], ToFloat(f16{p[0]}), ToFloat(f16{p[1]}), 32,
                                       &value[g * 32]);
              }
            } else {
              kGenericKernels.decode(code, &codes[o * row_bytes], 1.0f, 0.0f, cols, value.data());
            }
            for (int r = 0; r < rows; ++r) {
              double sum = 0, size = 0;
              for (int64_t c = 0; c < cols; ++c) {
                sum += double{value[c]} * x[r * cols + c];
                size += std::abs(double{value[c]} * x[r * cols + c]);
              }
              const double scale = grouped ? 1.0 : scales[o];
              // Sums of codes cancel against sums of minima: size bounds neither alone, 16 |x| does.
              if (grouped) size += 32.0 * cols;
              ASSERT_NEAR(y[r * 10 + o], sum * scale, 1e-6 * size * std::abs(scale) + 1e-6)
                  << simd->name << " code " << static_cast<int>(code) << " cols " << cols << " rows " << rows;
            }
          }
          for (int r = 0; r < rows; ++r) ASSERT_TRUE(std::isnan(y[r * 10 + outs]));
        }
      }
    }
  }
}

}  // namespace
}  // namespace duo::cpu
