// Which experts of a mixture a row's logits choose, and what they weigh; alone, and in one launch with the sum and the
// norm ahead of them.
#include <numeric>

#include "kernels/experts.h"
#include "kernels/norm_route.h"
#include "reference.h"
#include "test_weight.h"

namespace duo {
namespace {

class Router : public DeviceTest {};
INSTANTIATE_ON_DEVICES(Router);

TEST_P(Router, ChoosesTheLargestLogits) {
  for (const auto& [experts, chosen] : {std::pair(1, 1), {5, 2}, {60, 4}, {128, 8}, {129, 64}, {1024, 3}}) {
    for (const bool normalised : {false, true}) {
      SCOPED_TRACE(testing::Message() << chosen << " of " << experts << (normalised ? ", normalised" : ""));
      constexpr int64_t kRows = 19;
      const int64_t stride = experts + 3;
      std::mt19937 rng(static_cast<unsigned>(experts));
      std::vector<float> logits = Normal(rng, kRows * stride, 2.0f);
      for (int64_t e = 0; e < experts; ++e) logits[3 * stride + e] = 1.5f;  // all tied
      Buffer in = Upload(device(), logits), ids = Allocate(device(), 4 * kRows * chosen),
             weights = Allocate(device(), 4 * kRows * chosen);
      RouteRows(device(), {ids.as<int32_t>(), weights.as<float>(), chosen},
                View(in.data(), DType::kF32, kRows, experts, stride), experts, normalised);
      const auto got = Download<int32_t>(device(), ids.data(), kRows * chosen);
      const auto shares = Download<float>(device(), weights.data(), kRows * chosen);
      for (int64_t r = 0; r < kRows; ++r) {
        const float* row = &logits[r * stride];
        std::vector<int32_t> order(experts);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
        double sum = 0;
        for (int e = 0; e < (normalised ? chosen : experts); ++e) sum += std::exp(double{row[order[e]]});
        for (int j = 0; j < chosen; ++j) {
          ASSERT_EQ(got[r * chosen + j], order[j]) << "row " << r << " place " << j;
          EXPECT_NEAR(shares[r * chosen + j], std::exp(double{row[order[j]]}) / sum, 1e-6);
        }
      }
    }
  }
}

TEST_P(Router, GivesARowWithANanNoWeights) {
  std::vector<float> logits = {1, 2, 3, NAN, 0, -1, 5, 4};
  Buffer in = Upload(device(), logits), ids = Allocate(device(), 16), weights = Allocate(device(), 16);
  RouteRows(device(), {ids.as<int32_t>(), weights.as<float>(), 2}, View(in.data(), DType::kF32, 2, 4), 4, true);
  const auto got = Download<int32_t>(device(), ids.data(), 4);
  const auto shares = Download<float>(device(), weights.data(), 4);
  EXPECT_EQ(got, (std::vector<int32_t>{2, 1, 2, 3}));
  EXPECT_TRUE(std::isnan(shares[0]) && std::isnan(shares[1]));
  EXPECT_NEAR(shares[2] + shares[3], 1, 1e-6);
}

// One launch does what three do, each row as it does it alone.
TEST_P(Router, WorksAtOnceWithSumAndNorm) {
  struct Case {
    int64_t dim, outputs;
    int experts, chosen;
    bool add, bias;
  };
  for (const Case& c : {Case{2048, 128, 128, 8, true, false},
                        {2880, 32, 32, 4, true, true},
                        {192, 6, 5, 2, false, false},
                        {4096, 9, 8, 2, true, false}}) {
    SCOPED_TRACE(testing::Message() << c.dim << " columns, " << c.experts << " experts");
    const DType type = activation();
    std::mt19937 rng(static_cast<unsigned>(c.dim));
    constexpr int64_t kRows = 16;
    const TestWeight router = MakeWeight(device(), DType::kBF16, c.outputs, c.dim, 0, c.bias, rng);
    const std::vector<float> before = Normal(rng, kRows * c.dim), scale = Normal(rng, c.dim);
    std::vector<float> added = Normal(rng, kRows * c.dim);
    for (float& v : added) v = Rounded(type, v);
    Buffer residual = Upload(device(), before), add = UploadAs(device(), type, added), weight = Upload(device(), scale),
           normed = Allocate(device(), Bytes(type, kRows * c.dim)), logits = Allocate(device(), 4 * kRows * c.outputs),
           ids = Allocate(device(), 4 * kRows * c.chosen), shares = Allocate(device(), 4 * kRows * c.chosen);
    const auto rows_of = [&](int64_t first, int64_t rows) {
      const View sum(residual.data(), DType::kF32, kRows, c.dim), out(normed.data(), type, kRows, c.dim),
          from(add.data(), type, kRows, c.dim);
      return NormedRows{out.Rows(first, rows), sum.Rows(first, rows), c.add ? from.Rows(first, rows) : View(),
                        weight.as<float>(), 1e-6f};
    };
    if (!CanNormAndRoute(device(), rows_of(0, kRows), router.weight)) {
      if (cuda()) GTEST_SKIP() << "no clusters here";
      continue;
    }
    const auto run = [&](int64_t first, int64_t rows) {
      device().Upload(residual.data(), before.data(), sizeof(float) * before.size());
      NormAndRoute(device(), {ids.as<int32_t>() + first * c.chosen, shares.as<float>() + first * c.chosen, c.chosen},
                   View(logits.data(), DType::kF32, kRows, c.outputs).Rows(first, rows), rows_of(first, rows),
                   router.weight, c.experts, true);
    };
    run(0, kRows);
    const auto sums = Download<float>(device(), residual.data(), kRows * c.dim);
    const auto norms = DownloadAs(device(), type, normed.data(), kRows * c.dim);
    const auto got = Download<float>(device(), logits.data(), kRows * c.outputs);
    const auto chosen = Download<int32_t>(device(), ids.data(), kRows * c.chosen);
    const auto weights = Download<float>(device(), shares.data(), kRows * c.chosen);
    for (int64_t r = 0; r < kRows; ++r) {
      double square = 0;
      for (int64_t i = 0; i < c.dim; ++i) {
        const float sum = before[r * c.dim + i] + (c.add ? added[r * c.dim + i] : 0);
        ASSERT_EQ(sums[r * c.dim + i], sum);
        square += double{sum} * sum;
      }
      const double factor = 1 / std::sqrt(square / static_cast<double>(c.dim) + 1e-6);
      for (int64_t i = 0; i < c.dim; ++i) {
        const double norm = sums[r * c.dim + i] * factor * scale[i];
        ASSERT_NEAR(norms[r * c.dim + i], norm, 1.01 * UnitRoundoff(type) * std::abs(norm)) << r << " " << i;
      }
      for (int64_t e = 0; e < c.outputs; ++e) {
        double product = router.bias[e], size = 0;
        for (int64_t i = 0; i < c.dim; ++i) {
          product += router.values[e * c.dim + i] * norms[r * c.dim + i];
          size += std::abs(router.values[e * c.dim + i] * norms[r * c.dim + i]);
        }
        ASSERT_NEAR(got[r * c.outputs + e], product, 1e-6 * size + 1e-6);
      }
      const float* row = &got[r * c.outputs];
      std::vector<int32_t> order(c.experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
      double sum = 0;
      for (int j = 0; j < c.chosen; ++j) sum += std::exp(double{row[order[j]]} - row[order[0]]);
      for (int j = 0; j < c.chosen; ++j) {
        ASSERT_EQ(chosen[r * c.chosen + j], order[j]);
        ASSERT_NEAR(weights[r * c.chosen + j], std::exp(double{row[order[j]]} - row[order[0]]) / sum, 1e-6);
      }
    }
    for (int64_t r = 0; r < kRows; ++r) run(r, 1);
    EXPECT_EQ(DownloadAs(device(), type, normed.data(), kRows * c.dim), norms);
    EXPECT_EQ(Download<float>(device(), logits.data(), kRows * c.outputs), got);
    EXPECT_EQ(Download<float>(device(), shares.data(), kRows * c.chosen), weights);
  }
}

}  // namespace
}  // namespace duo
