// Conversions, exhaustively where the type is small. The reference knows nothing of bit tricks: it searches the sorted
// list of representable values for the nearest one, ties to the even code.
#include "kernels/base/dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "tests/support/test_scale.h"

namespace duo {
namespace {

// The value of a small float format's code, from its definition; infinities are treated as the next binade's first
// value, which is where rounding to them begins.
double DefinedValue(int code, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, mantissa = code & ((1 << mantissa_bits) - 1);
  const int exponent = code >> mantissa_bits;
  if (exponent == 0) return std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

// The nearest non-negative code, ties to even.
int NearestCode(double x, int codes, const std::function<double(int)>& value) {
  int low = 0, high = codes - 1;
  if (x >= value(high)) return high;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (value(middle) <= x ? low : high) = middle;
  }
  const double below = x - value(low), above = value(high) - x;
  return below < above || (below == above && low % 2 == 0) ? low : high;
}

TEST(F16, EveryCodeHasItsValueAndSurvivesTheRoundTrip) {
  for (int code = 0; code < 65536; ++code) {
    const float x = ToFloat(f16{static_cast<uint16_t>(code)});
    const int magnitude = code & 0x7fff;
    if (magnitude > 0x7c00) {
      EXPECT_TRUE(std::isnan(x));
      EXPECT_TRUE(std::isnan(ToFloat(ToF16(x))));
      continue;
    }
    const double expected = magnitude == 0x7c00 ? INFINITY : DefinedValue(magnitude, 5, 10);
    ASSERT_EQ(std::abs(x), expected) << code;
    ASSERT_EQ(std::signbit(x), code >> 15 != 0);
    ASSERT_EQ(ToF16(x).bits, code);
  }
}

TEST(F16, RoundsToNearestEvenAroundEveryValue) {
  const auto value = [](int code) { return DefinedValue(code, 5, 10); };
  for (int code = 0; code < 0x7c00; ++code) {
    const float middle = static_cast<float>((value(code) + value(code + 1)) / 2);
    for (float x : {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, INFINITY)}) {
      const int expected = NearestCode(x, 0x7c01, value);
      ASSERT_EQ(ToF16(x).bits, expected) << x;
      ASSERT_EQ(ToF16(-x).bits, expected | 0x8000) << -x;
    }
  }
  EXPECT_EQ(ToF16(1e30f).bits, 0x7c00);
  EXPECT_EQ(ToF16(-INFINITY).bits, 0xfc00);
  EXPECT_EQ(ToF16(1e-30f).bits, 0);
}

TEST(F8, EveryCodeHasItsValueAndSurvivesTheRoundTrip) {
  for (int code = 0; code < 256; ++code) {
    const float x = F8ToFloat(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(x));
      continue;
    }
    ASSERT_EQ(std::abs(x), DefinedValue(code & 0x7f, 4, 3)) << code;
    ASSERT_EQ(std::signbit(x), code >> 7 != 0);
    ASSERT_EQ(FloatToF8(x), code);
  }
  EXPECT_EQ(FloatToF8(NAN) & 0x7f, 0x7f);
}

TEST(F8, RoundsToNearestEvenAndSaturates) {
  const auto value = [](int code) { return DefinedValue(code, 4, 3); };
  for (int code = 0; code < 0x7e; ++code) {
    const float middle = static_cast<float>((value(code) + value(code + 1)) / 2);
    for (float x : {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, INFINITY)}) {
      const int expected = NearestCode(x, 0x7f, value);
      ASSERT_EQ(FloatToF8(x), expected) << x;
      ASSERT_EQ(FloatToF8(-x), expected | 0x80) << -x;
    }
  }
  for (float x : {448.0f, 449.0f, 464.0f, 500.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(FloatToF8(x), 0x7e);
    EXPECT_EQ(FloatToF8(-x), 0xfe);
  }
  std::mt19937 rng(1);
  for (int i = 0; i < Scaled(100000); ++i) {
    const float x = std::ldexp(1.0f + rng() / 4294967296.0f, static_cast<int>(rng() % 22) - 12);
    ASSERT_EQ(FloatToF8(x), NearestCode(x, 0x7f, value)) << x;
  }
}

TEST(Bf16, RoundsToNearestEvenEverywhere) {
  // A bf16 is the upper half of an f32: the neighbours of x are its truncation and the code after it.
  std::mt19937 rng(2);
  for (int i = 0; i < 1000000; ++i) {
    const uint32_t bits = i < 65536 ? static_cast<uint32_t>(i) << 16 | 0x8000u : static_cast<uint32_t>(rng());
    const float x = BitsFloat(bits);
    const uint16_t got = ToBf16(x).bits;
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(ToFloat(ToBf16(x))));
      continue;
    }
    const uint32_t rest = bits & 0xffffu, low = bits >> 16;
    const uint32_t expected = rest > 0x8000u || (rest == 0x8000u && low % 2 == 1) ? low + 1 : low;
    ASSERT_EQ(got, expected) << x;
  }
  for (uint32_t code = 0; code < 65536; ++code) {
    const bf16 b{static_cast<uint16_t>(code)};
    if (std::isnan(ToFloat(b))) continue;
    ASSERT_EQ(ToBf16(ToFloat(b)).bits, code);
  }
}

TEST(DTypes, SizesInBytes) {
  EXPECT_EQ(Bytes(DType::kI4, 7 * 2), 7u);
  EXPECT_EQ(Bytes(DType::kBF16, 3), 6u);
  EXPECT_EQ(Bytes(DType::kF8E4M3, 3), 3u);
}

}  // namespace
}  // namespace duo
