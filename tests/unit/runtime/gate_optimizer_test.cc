#include "runtime/identify/gate_optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

namespace duo {
namespace {

// DuoAttention's schedule over 2,000 steps: a tenth at the ends, the whole from step 399 to step 1600.
TEST(GateOptimizer, ScheduleIsThePublishedOne) {
  EXPECT_DOUBLE_EQ(ScheduleFactor(0, 2000), 0.1);
  EXPECT_DOUBLE_EQ(ScheduleFactor(38, 2000), 0.1);
  EXPECT_DOUBLE_EQ(ScheduleFactor(199, 2000), 0.5);
  EXPECT_DOUBLE_EQ(ScheduleFactor(399, 2000), 1);
  EXPECT_DOUBLE_EQ(ScheduleFactor(1600, 2000), 1);
  EXPECT_DOUBLE_EQ(ScheduleFactor(1800, 2000), 0.5);
  EXPECT_DOUBLE_EQ(ScheduleFactor(1999, 2000), 0.1);
  EXPECT_DOUBLE_EQ(ScheduleFactor(0, 1), 1);
}

// Adam's step is the rate, whatever the gradient's size, as long as the gradient does not change.
TEST(GateOptimizer, AConstantGradientMovesByTheRate) {
  GateOptimizer optimizer(2);
  for (int step = 1; step <= 5; ++step) {
    optimizer.Step({1e-3, 40}, 0.02);
    EXPECT_NEAR(optimizer.gates[0], 1 - 0.02 * step, 1e-5 * step);
    EXPECT_NEAR(optimizer.gates[1], 1 - 0.02 * step, 1e-9 * step);
  }
  EXPECT_EQ(optimizer.step, 5);
}

// Two steps by hand, from the paper's algorithm 1.
TEST(GateOptimizer, TwoStepsByHand) {
  GateOptimizer optimizer(1);
  optimizer.Step({0.3}, 0.1);
  optimizer.Step({-0.1}, 0.1);
  const double m = 0.9 * 0.1 * 0.3 + 0.1 * -0.1, v = 0.999 * 0.001 * 0.09 + 0.001 * 0.01;
  const double second = 0.1 * (m / (1 - 0.81)) / (std::sqrt(v / (1 - 0.998001)) + 1e-8);
  EXPECT_NEAR(optimizer.gates[0], 1 - 0.1 - second, 1e-7);
}

TEST(GateOptimizer, GatesStayInTheirRange) {
  GateOptimizer optimizer(2);
  for (int step = 0; step < 100; ++step) optimizer.Step({1, -1}, 0.05);
  EXPECT_EQ(optimizer.gates[0], 0);
  EXPECT_EQ(optimizer.gates[1], 1);
}

}  // namespace
}  // namespace duo
