// What a benchmark's table says of its rows: a share of the floor only where there is a floor below the time.
#include <gtest/gtest.h>

#include "launcher/bench/bench.h"

namespace duo {
namespace {

TEST(BenchRows, HaveAShareOfTheFloorWhereThatIsOne) {
  Measurement row;
  row.what = "decode";
  row.context = 2000;
  row.seconds = 0.002;
  row.floor_seconds = 0.001;
  EXPECT_EQ(RowText(row, 8, false), "decode          2,000     2.000 ms     1.000 ms    50.0%");
  row.floor_seconds = 0.003;  // of a small model, whose weights stay in the caches
  EXPECT_EQ(RowText(row, 8, false), "decode          2,000     2.000 ms     3.000 ms in cache");
  EXPECT_EQ(RowText(row, 8, true), "decode          2,000     2.000 ms     3.000 ms   150.0%") << "rates to doubt";
  row.floor_seconds = 0;
  row.context = 0;
  row.seconds = 2;
  EXPECT_EQ(RowText(row, 8, false), "decode              -     2.000 s           -          -");
}

}  // namespace
}  // namespace duo
