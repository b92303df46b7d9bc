// Properties of the codecs; the CPU's vectorised versions must give the same bytes as the scalar definition.
#include "kernels/kv_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/cpu/kv_vector.h"
#include "reference.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

constexpr KvFormat kFormats[] = {KvFormat::kF32, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4};
constexpr KvFormat kCoded[] = {KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4};

// Vectors that try a codec: ordinary ones, constant, tiny, huge, one-sided, with outliers, denormal.
std::vector<std::vector<float>> TryingVectors(int d) {
  std::mt19937 rng(d);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> all;
  for (float scale : {1e-42f, 1e-30f, 1e-8f, 6e-5f, 0.02f, 1.0f, 30.0f, 3000.0f, 60000.0f}) {
    for (float offset : {0.0f, 1.0f, -7.5f}) {
      std::vector<float> x(d);
      for (float& v : x) v = scale * normal(rng) + scale * offset;
      all.push_back(x);
      std::vector<float> outlier = x;
      outlier[d / 3] *= 100.0f;
      all.push_back(outlier);
      all.push_back(std::vector<float>(d, x[0]));
    }
  }
  all.push_back(std::vector<float>(d, 0.0f));
  all.push_back(std::vector<float>(d, -0.0f));
  for (int i = 0; i < 50; ++i) {  // values on the codes' ties
    std::vector<float> x(d);
    for (float& v : x) v = static_cast<float>(static_cast<int>(rng() % 61) - 30) / 4;
    x[0] = -7.5f;
    x[1] = 7.5f;
    all.push_back(x);
  }
  return all;
}

TEST(KvCodec, VectorisedBytesAndValuesAreTheScalarOnes) {
  for (int d : {2, 6, 14, 16, 30, 32, 62, 64, 66, 80, 96, 128, 192, 254, 256}) {
    for (const std::vector<float>& x : TryingVectors(d)) {
      for (KvFormat f : kFormats) {
        const StoredVector expected = ReferenceStore(f, x.data(), d);
        std::vector<uint8_t> codes(expected.codes.size() + 8, 0xa5), params(expected.params.size() + 8, 0xa5);
        cpu::EncodeKvVector(f, x.data(), d, codes.data(), params.data());
        for (int i = 0; i < 8; ++i) {
          ASSERT_EQ(codes[expected.codes.size() + i], 0xa5) << "written past the codes, " << Name(f) << " d " << d;
          ASSERT_EQ(params[expected.params.size() + i], 0xa5) << "written past the parameters";
        }
        codes.resize(expected.codes.size());
        params.resize(expected.params.size());
        ASSERT_EQ(codes, expected.codes) << Name(f) << " d " << d << " x[0] " << x[0];
        ASSERT_EQ(params, expected.params) << Name(f) << " d " << d << " x[0] " << x[0];
        std::vector<float> decoded(d + 4, 17.0f);
        cpu::DecodeKvVector(f, codes.data(), params.data(), d, decoded.data());
        for (int i = 0; i < 4; ++i) ASSERT_EQ(decoded[d + i], 17.0f) << "written past the values";
        for (int i = 0; i < d; ++i) {
          ASSERT_EQ(FloatBits(decoded[i]), FloatBits(expected.decoded[i])) << Name(f) << " d " << d << " at " << i;
        }
      }
    }
  }
}

TEST(KvCodec, DecodesEveryCodeOfEveryFormatLikeTheScalarFunctions) {
  for (KvFormat f : kCoded) {
    const KvParams p{ToF16(0.37f), ToF16(f == KvFormat::kFp8 ? 0.0f : -3.1f)};
    std::vector<uint8_t> codes(256), params(4);
    for (int i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(i);
    memcpy(params.data(), &p, KvParamBytes(f));
    std::vector<float> got(256);
    cpu::DecodeKvVector(f, codes.data(), params.data(), 256, got.data());
    for (int i = 0; i < 256; ++i) {
      const int code = f == KvFormat::kInt4 ? codes[i / 2] >> i % 2 * 4 & 15 : codes[i];
      const float expected = KvDecode(f, static_cast<uint8_t>(code), p);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(got[i]));
      } else {
        ASSERT_EQ(FloatBits(got[i]), FloatBits(expected)) << Name(f) << " code " << code;
      }
    }
  }
}

TEST(KvCodec, RoundTripErrsByHalfAStep) {
  const int d = 128;
  for (float scale : {0.01f, 1.0f, 50.0f}) {
    std::mt19937 rng(7);
    std::normal_distribution<float> normal;
    for (int trial = 0; trial < Scaled(200); ++trial) {
      std::vector<float> x(d);
      for (float& v : x) v = scale * (normal(rng) + 0.5f);
      const float low = *std::min_element(x.begin(), x.end()), high = *std::max_element(x.begin(), x.end());
      for (KvFormat f : {KvFormat::kInt8, KvFormat::kInt4}) {
        const StoredVector v = ReferenceStore(f, x.data(), d);
        const float steps = f == KvFormat::kInt8 ? 255 : 15;
        // Half a step, and what rounding scale and minimum to f16 (2^-11 each) can shift the ends by.
        const float bound = (high - low) / steps * 0.5f * 1.001f + (high - low) / 2048 + std::abs(low) / 2048;
        for (int i = 0; i < d; ++i) ASSERT_LE(std::abs(v.decoded[i] - x[i]), bound) << Name(f);
      }
      const StoredVector v = ReferenceStore(KvFormat::kFp8, x.data(), d);
      const float absmax = std::max(std::abs(low), std::abs(high));
      for (int i = 0; i < d; ++i) {
        // Three mantissa bits: 1/16 of the value, or half a denormal step of the scale; f16 rounding may saturate.
        ASSERT_LE(std::abs(v.decoded[i] - x[i]), std::abs(x[i]) / 15.9f + absmax / 448 / 1024 + absmax / 2048);
      }
    }
  }
}

TEST(KvCodec, ConstantVectorsComeBackAsTheirF16OrFp8Rounding) {
  for (float c : {0.0f, 1.0f, -3.25f, 0.1f, 1000.0f}) {
    const std::vector<float> x(64, c);
    for (KvFormat f : {KvFormat::kInt8, KvFormat::kInt4}) {
      for (float v : ReferenceStore(f, x.data(), 64).decoded) ASSERT_NEAR(v, c, std::abs(c) / 2048) << Name(f);
    }
    for (float v : ReferenceStore(KvFormat::kFp8, x.data(), 64).decoded) ASSERT_NEAR(v, c, std::abs(c) / 1000);
  }
}

TEST(KvCodec, FiniteVectorsStayFiniteHoweverLarge) {
  for (float scale : {7e4f, 1e7f, 1e30f, 1e38f}) {
    std::vector<float> x(64);
    for (int i = 0; i < 64; ++i) x[i] = scale * (i % 5 - 2);
    for (KvFormat f : kCoded) {
      for (float v : ReferenceStore(f, x.data(), 64).decoded) ASSERT_TRUE(std::isfinite(v)) << Name(f) << " " << scale;
    }
  }
}

TEST(KvCodec, EncodingDecodedValuesOfBf16IsTheIdentity) {
  for (const std::vector<float>& x : TryingVectors(64)) {
    const StoredVector once = ReferenceStore(KvFormat::kBF16, x.data(), 64);
    EXPECT_EQ(ReferenceStore(KvFormat::kBF16, once.decoded.data(), 64).codes, once.codes);
  }
}

TEST(KvCodec, SizesAreTheDocumentedOnes) {
  EXPECT_EQ(KvTokenBytes(KvFormat::kF32, 128), 1024);
  EXPECT_EQ(KvTokenBytes(KvFormat::kBF16, 128), 512);
  EXPECT_EQ(KvTokenBytes(KvFormat::kFp8, 128), 260);
  EXPECT_EQ(KvTokenBytes(KvFormat::kInt8, 128), 264);
  EXPECT_EQ(KvTokenBytes(KvFormat::kInt4, 128), 136);
}

}  // namespace
}  // namespace duo
