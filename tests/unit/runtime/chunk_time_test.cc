// What ChunkTime predicts, learns and cuts.
#include "runtime/scheduler/chunk_time.h"

#include "gtest/gtest.h"

namespace duo {
namespace {

TEST(ChunkTime, CountsDenseWorkAndPairs) {
  const ChunkTime time({10, 2, 100});
  // 4 rows: 40 dense, and 4 * (6 + 2) = 32 pairs.
  EXPECT_DOUBLE_EQ(time.Predict(4, 6), (40 + 64) / 100.0);
}

TEST(ChunkTime, LearnsTheMachinesRateHoweverWrongTheGuess) {
  for (const double rate : {1e8, 1e12}) {  // it is 1e10
    ChunkTime time({1e6, 1e2, rate});
    const ChunkTime machine({1e6, 1e2, 1e10});
    for (int i = 0; i < 20; ++i) time.Measured(512, 512 * i, machine.Predict(512, 512 * i));
    EXPECT_NEAR(time.Predict(512, 10240) / machine.Predict(512, 10240), 1, 0.01) << rate;
  }
}

TEST(ChunkTime, CutsToTheLargestPowerOfTwoThatIsQuickEnough) {
  const ChunkTime time({1, 0, 1000});  // a millisecond a row
  EXPECT_EQ(time.RowsWithin(1.0, 1000, 0), 1000);
  EXPECT_EQ(time.RowsWithin(1.0, 1001, 0), 512);
  EXPECT_EQ(time.RowsWithin(0.512, 4096, 0), 512);
  EXPECT_EQ(time.RowsWithin(0.511, 4096, 0), 256);
  EXPECT_EQ(time.RowsWithin(0.001, 4096, 0), ChunkTime::kFewestRows);
  EXPECT_EQ(time.RowsWithin(0.001, 100, 0), 100);
}

// A document that begins beside one that is nearly read: what the one's chunks took says nothing of the other's.
TEST(ChunkTime, KeepsApartWhatIsMostlyAttention) {
  ChunkTime time({1e6, 1e2, 1e10});
  const ChunkTime machine({1e6, 2e2, 1e10});  // whose attention takes twice as long
  for (int64_t history = 0; history < 1'000'000; history += 20'000) {
    for (int i = 0; i < 6; ++i) time.Measured(512, history, machine.Predict(512, history));
  }
  for (int i = 0; i < 20; ++i) time.Measured(512, 0, machine.Predict(512, 0));
  EXPECT_NEAR(time.Predict(512, 0) / machine.Predict(512, 0), 1, 0.02);
  EXPECT_NEAR(time.Predict(512, 900'000) / machine.Predict(512, 900'000), 1, 0.02);
  // And so of a whole text, in whose first half are a quarter of the pairs.
  EXPECT_NEAR(time.PredictText(900'000, 0) / machine.PredictText(900'000, 0), 1, 0.05);
  EXPECT_NEAR(machine.PredictText(900'000, 0), 900'000 * 1e-4 + 0.5 * 8.1e11 * 2e-8, 1e-3 * 8.1e11 * 1e-8);
}

TEST(ChunkTime, CutsFinerBesideAnswersThatItCounts) {
  const ChunkTime time({1, 0.001, 1000, 10});  // a millisecond a row, and 10 microseconds a token that a row rides with
  EXPECT_EQ(time.RowsBeside({}, 0.8, 4096, 0), 512);
  EXPECT_EQ(time.RowsBeside({}, 1.1, 4096, 0), 768);
  EXPECT_EQ(time.RowsBeside({8, 40'000}, 0.9, 4096, 0), 384);
  EXPECT_EQ(time.RowsBeside({}, 0.001, 4096, 0), ChunkTime::kFewestBeside);
  EXPECT_EQ(time.RowsBeside({}, 100, 300, 0), 300);
}

TEST(ChunkTime, HistoryShortensChunks) {
  const ChunkTime time({1, 0.001, 1000});
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
