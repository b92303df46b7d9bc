// Gradients in tests: a plain path written once for any number type, in f64 the truth. That truth is itself proved by
// central differences of the f64 forward.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "reference.h"

namespace duo {

// Rounds what a plain path stores: to T where numbers are f32 ones, not at all in f64.
inline float Stored(DType type, float x) { return Rounded(type, x); }
inline double Stored(DType, double x) { return x; }

template <typename To, typename From>
std::vector<To> Cast(const std::vector<From>& x) {
  return std::vector<To>(x.begin(), x.end());
}

// Is `gradient` that of loss at x? By (loss(x + h) - loss(x - h)) / 2 h at up to `most` entries, chosen at random. With
// h = 1e-5 the difference errs by h^2 times third derivatives and by roundings of the loss over h, some 1e-9 of the
// values here, which are near 1.
inline void ExpectGradient(const std::function<double(const std::vector<double>&)>& loss, std::vector<double> x,
                           const std::vector<double>& gradient, const std::string& what, size_t most = 64) {
  ASSERT_EQ(x.size(), gradient.size()) << what;
  std::mt19937 rng(5);
  std::uniform_int_distribution<size_t> pick(0, x.size() - 1);
  const double h = 1e-5;
  for (size_t i = 0; i < std::min(most, x.size()); ++i) {
    const size_t at = x.size() <= most ? i : pick(rng);
    const double before = x[at];
    x[at] = before + h;
    const double above = loss(x);
    x[at] = before - h;
    const double below = loss(x);
    x[at] = before;
    ASSERT_NEAR((above - below) / (2 * h), gradient[at], 1e-6 * (1 + std::abs(gradient[at]))) << what << " at " << at;
  }
}

template <typename A, typename B>
double Dot(const std::vector<A>& a, const std::vector<B>& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

}  // namespace duo
