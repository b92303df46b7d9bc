#include "launcher/terminal/time_left.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>

namespace duo {
namespace {

constexpr int64_t kTotal = 32000;

// What is foretold when `done` of work that takes time(n) for n parts are done, in steps of 256.
double LeftAt(int64_t done, const std::function<double(double)>& time) {
  TimeLeft left;
  for (int64_t n = 256; n <= done; n += 256) left.Seen(n, time(static_cast<double>(n)));
  return left.Until(kTotal);
}

TEST(TimeLeft, IsRightForEvenAndForGrowingWork) {
  for (const double growth : {0.0, 1e-8, 1e-6}) {
    const auto time = [&](double n) { return 0.001 * n + growth * n * n; };
    for (const int64_t done : {1024, 3072, 16384, 28672}) {
      const double truth = time(kTotal) - time(static_cast<double>(done));
      EXPECT_NEAR(LeftAt(done, time), truth, 1e-6 * truth) << growth << " after " << done;
    }
  }
}

TEST(TimeLeft, WorkThatGetsFasterGoesOnAtItsMeanRate) {
  const auto time = [](double n) { return 2 + 0.001 * n; };
  EXPECT_NEAR(LeftAt(3072, time), time(3072) / 3072 * (kTotal - 3072), 1e-6);
}

TEST(TimeLeft, IsNotKnownBeforeAnythingIsDone) {
  TimeLeft left;
  EXPECT_LT(left.Until(kTotal), 0);
  left.Seen(0, 3);
  EXPECT_LT(left.Until(kTotal), 0);
  left.Seen(10, 4);
  EXPECT_DOUBLE_EQ(left.Until(20), 4);
  left.Seen(10, 9);  // no more than before
  EXPECT_DOUBLE_EQ(left.Until(20), 4);
}

}  // namespace
}  // namespace duo
