#include "runtime/weights/cut_unit.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

// Random weights in a mixture of formats have groups, though nothing stored says so: cut inside one, a rank would read
// its last codes with a scale of the next row's.
TEST(CutUnit, OfAMixtureOfFormatsIsWholeGroups) {
  for (const int world : {1, 2, 3, 4, 8}) {
    for (const int64_t columns : {768, 2880, 14336}) {
      const int64_t unit = CutUnit({}, {std::nullopt, 0, true}, columns, world);
      EXPECT_EQ(unit % (columns == 2880 ? 64 : 256), 0) << columns << " columns over " << world << ": " << unit;
    }
  }
}

TEST(CutUnit, OfMatricesWithoutGroupsFollowsTheRanks) {
  EXPECT_EQ(CutUnit({}, {DType::kBF16}, 0, 4), 1);
  EXPECT_LT(CutUnit({}, {DType::kBF16}, 2880, 4), 64);
  EXPECT_EQ(CutUnit({}, {DType::kI8, 64}, 4096, 2) % 64, 0);
}

// Blocks of a width that is no power of two are held as narrower ones; the last rank's last block may be cut off.
TEST(CutUnit, OfFp8InBlocksIsABlockWide) {
  QuantizationConfig stored;
  stored.kind = QuantizationKind::kFp8Blocks;
  stored.weights = {.bits = 8, .type = QuantizationType::kFloat, .granularity = QuantizationGranularity::kGroup};
  for (const int64_t columns : {144, 768, 1408, 14336}) {
    stored.block_rows = stored.block_cols = 128;
    EXPECT_EQ(CutUnit(stored, {}, columns, 3), 128);
    EXPECT_EQ(CutUnit({}, {DType::kF8E4M3, 128}, columns, 3), 128);
    stored.block_cols = 96;
    EXPECT_EQ(CutUnit(stored, {}, columns, 1) % 32, 0);
  }
}

}  // namespace
}  // namespace duo
