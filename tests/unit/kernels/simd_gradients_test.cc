// Every instruction set's gates and gradients against plain loops, as simd_test.cc has the rest.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "devices.h"
#include "kernels/cpu/simd.h"
#include "reference.h"
#include "simd_tables.h"

namespace duo::cpu {
namespace {

TEST(Simd, SwiGluMatches) {
  std::mt19937 rng(7);
  for (const SimdKernels* simd : Tables()) {
    for (int count : {1, 16, 100}) {
      const std::vector<float> g = Normal(rng, count, 30.0f), u = Normal(rng, count);
      std::vector<float> out(count + 1, 5.0f);
      simd->swiglu(g.data(), u.data(), count, out.data());
      for (int i = 0; i < count; ++i) {
        const double exact = g[i] / (1 + std::exp(-double{g[i]})) * u[i];
        ASSERT_NEAR(out[i], exact, 4e-7 * std::abs(exact) + 1e-35) << simd->name;
      }
      ASSERT_EQ(out[count], 5.0f);
    }
  }
}

// The probability underflows as exp does below -87; the differences in f32 round once, the products again.
TEST(Simd, GradientsOfSoftmaxAndSwiGluMatch) {
  std::mt19937 rng(8);
  for (const SimdKernels* simd : Tables()) {
    const int rows = 5;
    std::vector<float> scores = Normal(rng, rows * kKeyBlock, 10.0f), grads = Normal(rng, rows * kKeyBlock),
                       lse = Normal(rng, rows, 10.0f), delta = Normal(rng, rows);
    scores[3] = -INFINITY;
    const std::vector<float> before = scores, upstream = grads;
    simd->softmax_gradient(rows, scores.data(), grads.data(), lse.data(), delta.data());
    for (int i = 0; i < rows * kKeyBlock; ++i) {
      const double p = std::exp(static_cast<double>(before[i] - lse[i / kKeyBlock]));
      ASSERT_NEAR(scores[i], p, 2e-7 * p + 1e-37) << simd->name;
      const double ds = p * static_cast<double>(upstream[i] - delta[i / kKeyBlock]);
      ASSERT_NEAR(grads[i], ds, 4e-7 * std::abs(ds) + 1e-37) << simd->name;
    }
    EXPECT_EQ(scores[3], 0.0f);
    EXPECT_EQ(grads[3], 0.0f);
    for (int count : {1, 16, 100}) {
      const std::vector<float> g = Normal(rng, count, 30.0f), u = Normal(rng, count), d = Normal(rng, count);
      std::vector<float> dg(count + 1, 5.0f), du(count + 1, 5.0f);
      simd->swiglu_gradient(g.data(), u.data(), d.data(), count, dg.data(), du.data());
      for (int i = 0; i < count; ++i) {
        const double s = 1 / (1 + std::exp(-double{g[i]})), u_exact = d[i] * g[i] * s;
        const double g_exact = d[i] * u[i] * s * (1 + g[i] * (1 - s)), largest = std::abs(d[i] * u[i] * s * g[i]);
        ASSERT_NEAR(dg[i], g_exact, 1e-6 * (std::abs(g_exact) + largest) + 1e-35) << simd->name;
        ASSERT_NEAR(du[i], u_exact, 1e-6 * std::abs(u_exact) + 1e-35) << simd->name;
      }
      ASSERT_EQ(dg[count], 5.0f);
      ASSERT_EQ(du[count], 5.0f);
    }
  }
}

}  // namespace
}  // namespace duo::cpu
