// What ChunkTime predicts, learns and cuts.
#include "runtime/scheduler/chunk_time.h"

#include "gtest/gtest.h"

namespace duo {
namespace {

TEST(ChunkTime, CountsDenseWorkAndPairs) {
  const ChunkTime time(10, 2, 100);
  // 4 rows: 40 dense, and 4 * (6 + 2) = 32 pairs.
  EXPECT_DOUBLE_EQ(time.Predict(4, 6), (40 + 64) / 100.0);
}

TEST(ChunkTime, LearnsTheMachinesRateHoweverWrongTheGuess) {
  for (const double rate : {1e8, 1e12}) {  // it is 1e10
    ChunkTime time(1e6, 1e2, rate);
    const ChunkTime machine(1e6, 1e2, 1e10);
    for (int i = 0; i < 20; ++i) time.Measured(512, 512 * i, machine.Predict(512, 512 * i));
    EXPECT_NEAR(time.Predict(512, 10240) / machine.Predict(512, 10240), 1, 0.01) << rate;
  }
}

TEST(ChunkTime, CutsToTheLargestPowerOfTwoThatIsQuickEnough) {
  const ChunkTime time(1, 0, 1000);  // a millisecond a row
  EXPECT_EQ(time.RowsWithin(1.0, 1000, 0), 1000);
  EXPECT_EQ(time.RowsWithin(1.0, 1001, 0), 512);
  EXPECT_EQ(time.RowsWithin(0.512, 4096, 0), 512);
  EXPECT_EQ(time.RowsWithin(0.511, 4096, 0), 256);
  EXPECT_EQ(time.RowsWithin(0.001, 4096, 0), ChunkTime::kFewestRows);
  EXPECT_EQ(time.RowsWithin(0.001, 100, 0), 100);
}

TEST(ChunkTime, HistoryShortensChunks) {
  const ChunkTime time(1, 0.001, 1000);
  int64_t rows = 4096;
  for (int64_t history = 0; history < 8'000'000; history += 100'000) {
    const int64_t cut = time.RowsWithin(4.0, 4096, history);
    EXPECT_LE(cut, rows) << history;
    EXPECT_TRUE(cut == ChunkTime::kFewestRows || time.Predict(cut, history) <= 4.0) << history;
    rows = cut;
  }
  EXPECT_EQ(rows, ChunkTime::kFewestRows);
}

}  // namespace
}  // namespace duo
