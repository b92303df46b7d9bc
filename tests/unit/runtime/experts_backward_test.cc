#include "runtime/identify/experts_backward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace duo {
namespace {

// The weights of the chosen experts as RouteRows defines them, in f64.
std::vector<double> WeightsOf(const std::vector<double>& logits, const std::vector<int32_t>& ids, bool normalised) {
  double sum = 0;
  for (int e = 0; e < static_cast<int>(logits.size()); ++e) {
    if (!normalised || std::count(ids.begin(), ids.end(), e)) sum += std::exp(logits[e]);
  }
  std::vector<double> weights;
  for (const int32_t e : ids) weights.push_back(std::exp(logits[e]) / sum);
  return weights;
}

TEST(RouterGradient, IsThatOfFiniteDifferences) {
  const std::vector<double> logits = {0.3, -1.2, 2.0, 0.9, -0.4};
  const std::vector<int32_t> ids = {2, 3, 0};
  const std::vector<float> dweights = {0.7f, -1.1f, 0.4f};
  for (const bool normalised : {false, true}) {
    RouterChoice choice;
    choice.experts = 5;
    choice.chosen = 3;
    choice.normalised = normalised;
    choice.ids = ids;
    choice.columns = 6;
    choice.logits.assign(logits.begin(), logits.end());
    choice.logits.push_back(9);
    for (const double w : WeightsOf(logits, ids, normalised)) choice.weights.push_back(static_cast<float>(w));
    std::vector<float> dlogits(6, 0.0f);
    dlogits[5] = 3;
    RouterGradient(choice, dweights, &dlogits);
    for (int e = 0; e < 5; ++e) {
      double difference = 0;
      for (const double step : {1e-5, -1e-5}) {
        std::vector<double> moved = logits;
        moved[e] += step;
        const std::vector<double> weights = WeightsOf(moved, ids, normalised);
        for (int j = 0; j < 3; ++j) difference += weights[j] * dweights[j] / (2 * step);
      }
      EXPECT_NEAR(dlogits[e], difference, 1e-6) << "expert " << e << (normalised ? ", normalised" : "");
    }
    EXPECT_EQ(dlogits[5], 3);
  }
}

}  // namespace
}  // namespace duo
