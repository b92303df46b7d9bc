// How prefill attention cuts rows and heads for plans of static shapes; plain arithmetic, on every machine.
#include "kernels/cuda/attention/prefill_shapes.h"

#include <gtest/gtest.h>

#include <bit>

namespace duo::cuda {
namespace {

TEST(PrefillShapes, SlicesCoverTheRowsAndWasteLittle) {
  for (int64_t rows = 1; rows <= 70000; rows += rows < 3000 ? 1 : 61) {
    int64_t next = 0;
    for (const Slice& slice : CutRows(rows)) {
      ASSERT_EQ(slice.first, next) << rows;
      ASSERT_GE(slice.rows, 1) << rows;
      ASSERT_LE(slice.rows, slice.capacity) << rows;
      ASSERT_TRUE(std::has_single_bit(static_cast<uint64_t>(slice.capacity))) << rows;
      ASSERT_GE(slice.capacity, kLeastRows) << rows;
      ASSERT_LE(slice.capacity, kMostRows) << rows;
      if (slice.capacity > kLeastRows) {
        ASSERT_LT(slice.capacity - slice.rows, slice.capacity / 8) << rows;
      }
      if (slice.rows < slice.capacity) {
        ASSERT_EQ(slice.first + slice.rows, rows) << "only the last slice is padded";
      }
      next = slice.first + slice.rows;
    }
    ASSERT_EQ(next, rows);
  }
}

TEST(PrefillShapes, FullChunksOfAPowerOfTwoAreOneSlice) {
  for (int64_t rows = kLeastRows; rows <= kMostRows; rows *= 2) {
    ASSERT_EQ(CutRows(rows).size(), 1u) << rows;
    EXPECT_EQ(RowCapacity(rows), rows);
  }
  EXPECT_EQ(CutRows(10000).size(), 2u);  // 8192 and, padded, 2048
  EXPECT_EQ(RowCapacity(10000), 10240);
}

// Scratch is sized for the longest chunk and must do for all shorter ones.
TEST(PrefillShapes, FewerRowsNeverNeedMoreRoom) {
  int64_t before = 0;
  for (int64_t rows = 1; rows <= 40000; ++rows) {
    ASSERT_GE(RowCapacity(rows), before) << rows;
    before = RowCapacity(rows);
  }
}

TEST(PrefillShapes, HeadsGoInPowersOfTwoUntilNoneIsLeft) {
  for (int heads = 1; heads <= 40; ++heads) {
    for (int64_t capacity : {int64_t{512}, int64_t{4096}, int64_t{32768}}) {
      int left = heads;
      while (left > 0) {
        const int count = HeadsAtOnce(left, 1, capacity);
        ASSERT_TRUE(std::has_single_bit(static_cast<unsigned>(count)));
        ASSERT_LE(count, left);
        left -= count;
      }
    }
  }
  EXPECT_EQ(HeadsAtOnce(8, 4, 32768), 1);  // large calls fill the GPU with one head
}

}  // namespace
}  // namespace duo::cuda
