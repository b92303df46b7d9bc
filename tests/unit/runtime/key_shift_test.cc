#include "runtime/model/key_shift.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

namespace duo {
namespace {

KeyMeans Means() {
  KeyMeans means;
  means.layers = 2;
  means.kv_heads = 1;
  means.head_dim = 8;
  means.tokens = 1;
  for (int i = 0; i < 16; ++i) means.values.push_back(std::sin(3.0 * i + 1));
  return means;
}

ModelConfig Shape() {
  ModelConfig config;
  config.layers = 2;
  config.kv_heads = 1;
  config.head_dim = 8;
  return config;
}

// One pair turns quickly, one a few times, one hardly, one not at all.
RopeFrequencies Rope() { return {{1.0, 0.01, 1e-5, 0.0}, 1.25}; }

// The pair's mean key over all positions of a text of n tokens, as RotateQk rotates it.
std::pair<double, double> MeanOfText(double a, double b, double f, int64_t n) {
  double first = 0, second = 0;
  for (int64_t p = 0; p < n; ++p) {
    const double angle = static_cast<double>(p) * f;
    first += 1.25 * (a * std::cos(angle) - b * std::sin(angle)) / static_cast<double>(n);
    second += 1.25 * (b * std::cos(angle) + a * std::sin(angle)) / static_cast<double>(n);
  }
  return {first, second};
}

TEST(KeyShift, IsTheMeanOfTheRotatedMeanOverTextsOfTheLastThreeOctaves) {
  const KeyMeans means = Means();
  const RopeFrequencies rope = Rope();
  const std::vector<float> shift = KeyShift(means, rope, 4096);
  ASSERT_EQ(shift.size(), means.values.size());
  for (int layer = 0; layer < 2; ++layer) {
    for (int i = 0; i < 4; ++i) {
      double first = 0, second = 0;
      for (int step = 0; step <= 24; ++step) {
        const auto [x, y] = MeanOfText(means.values[8 * layer + i], means.values[8 * layer + 4 + i], rope.inv_freq[i],
                                       std::llround(512 * std::pow(2.0, step / 8.0)));
        first += x / 25;
        second += y / 25;
      }
      EXPECT_NEAR(shift[8 * layer + i], first, 1e-6) << i;
      EXPECT_NEAR(shift[8 * layer + 4 + i], second, 1e-6) << i;
    }
  }
  EXPECT_LT(std::hypot(shift[0], shift[4]), 0.004) << "what turns often has no mean";
  EXPECT_NEAR(shift[3], 1.25 * means.values[3], 1e-6) << "what does not turn keeps all of it";
}

TEST(KeyShift, IsAllOfTheMeanWhereThereIsOnePosition) {
  const std::vector<float> shift = KeyShift(Means(), Rope(), 1);
  for (int i = 0; i < 16; ++i) EXPECT_NEAR(shift[i], 1.25 * Means().values[i], 1e-6);
}

TEST(KeyShift, OneModelsMeansHaveOneFingerprintAndOthersAnother) {
  const std::string print = KeyShiftFingerprint(Means(), Rope(), 3000);
  EXPECT_EQ(KeyShiftFingerprint(Means(), Rope(), 3000), print);
  KeyMeans other = Means();
  other.values[5] += 0.01;
  EXPECT_NE(KeyShiftFingerprint(other, Rope(), 3000), print);
  EXPECT_NE(KeyShiftFingerprint(Means(), Rope(), 4000), print);
  RopeFrequencies rope = Rope();
  rope.inv_freq[1] *= 2;
  EXPECT_NE(KeyShiftFingerprint(Means(), rope, 3000), print);
}

TEST(KeyShift, IsRefusedByNameWhereSoftmaxSeesIt) {
  EXPECT_TRUE(CheckKeyShift(Shape(), Means(), "dir").ok());
  const auto refusal = [](const ModelConfig& config) {
    const absl::Status status = CheckKeyShift(config, Means(), "dir");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  ModelConfig config = Shape();
  config.attention_sinks = true;
  EXPECT_NE(refusal(config).find("learned attention sinks"), std::string::npos);
  config = Shape();
  config.dual_chunk.chunk_size = 4096;
  EXPECT_NE(refusal(config).find("dual chunk attention"), std::string::npos);
  config = Shape();
  config.head_dim = 16;
  EXPECT_NE(refusal(config).find("dir/key_means.tsv: expected 2 layers of 1 KV heads of 16 channels"),
            std::string::npos);
}

}  // namespace
}  // namespace duo
