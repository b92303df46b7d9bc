// fp8 weights with a scale for each block of rows and columns, by the rule of reference.h.
#include "kernels/scale_blocks.h"

#include "kernels/alike_rows.h"
#include "kernels/ops.h"
#include "kernels/random_fill.h"
#include "product_fixture.h"

namespace duo {
namespace {

class ScaleBlocks : public ProductTest {};
INSTANTIATE_ON_DEVICES(ScaleBlocks);

// Few rows and many; blocks that end with the matrix and that are cut off, of rows and of columns; blocks of fewer rows
// and columns, as where heads or ranks cut them.
TEST_P(ScaleBlocks, ProductsMatch) {
  std::mt19937 rng(41);
  for (auto [block, group] : {std::pair(128, 128), std::pair(128, 64), std::pair(8, 128), std::pair(1, 32)}) {
    for (auto [outs, cols] : {std::pair<int64_t, int64_t>(256, 512), std::pair<int64_t, int64_t>(200, 192),
                              std::pair<int64_t, int64_t>(37, 832), std::pair<int64_t, int64_t>(136, 344)}) {
      for (int64_t rows : {1, 2, 3, 5, 8, 9, 16, 17, 60, 128, 150, 300}) {
        SCOPED_TRACE(testing::Message() << "blocks " << block << " x " << group << " of " << outs << " x " << cols
                                        << " rows " << rows);
        CheckLinear(MakeScaleBlockWeight(device(), outs, cols, block, group, rows % 2 == 0, rng), rows,
                    rows % 3 == 0 ? DType::kF32 : activation(), rng);
      }
    }
  }
}

TEST_P(ScaleBlocks, ProductsOfUglySizesMatch) {
  if (cuda()) GTEST_SKIP() << "CUDA takes multiples of 8";
  std::mt19937 rng(43);
  for (int64_t outs : {1, 7, 129, 257}) {
    for (int64_t cols : {1, 7, 127, 129, 255, 1000}) {
      for (int64_t rows : {1, 3, 17})
        CheckLinear(MakeScaleBlockWeight(device(), outs, cols, 128, 128, true, rng), rows, DType::kF32, rng);
    }
  }
}

// Long products, cut into parts; more outputs than there are multiprocessors.
TEST_P(ScaleBlocks, LongProductsMatch) {
  std::mt19937 rng(47);
  for (int64_t rows : {1, 4, 8, 12, 40}) {
    CheckLinear(MakeScaleBlockWeight(device(), 72, 14336, 128, 128, false, rng), rows, DType::kF32, rng);
    CheckLinear(MakeScaleBlockWeight(device(), 4360, 256, 128, 128, true, rng), rows, activation(), rng);
  }
}

TEST_P(ScaleBlocks, SwiGluOfAProductMatches) {
  std::mt19937 rng(53);
  for (int64_t rows : {1, 3, 8, 11, 40}) {
    for (int64_t n : {8, 72, 2120}) {
      SCOPED_TRACE(testing::Message() << "rows " << rows << " outputs " << n);
      const int64_t cols = n > 1000 ? 256 : 1280;
      CheckSwiGlu(MakeScaleBlockWeight(device(), 2 * n, cols, 8, 128, n == 72, rng), rows, rng);
    }
  }
}

// A row has the bits that it has alone, however k is cut: of rows of any size, beside a NaN.
TEST_P(ScaleBlocks, RowsAreTheSameInCompany) {
  std::mt19937 rng(59);
  const DType type = activation();
  constexpr int64_t kOuts = 200, kRows = 8;
  for (int64_t cols : {256, 1280, 4096, 14336}) {
    const TestWeight w = MakeScaleBlockWeight(device(), kOuts, cols, 128, 128, false, rng);
    ASSERT_EQ(LinearAlike(device(), w.weight), !cuda() || cols < 14336) << "whose rows are cut by how many there are";
    if (!LinearAlike(device(), w.weight)) continue;
    std::vector<float> x = Normal(rng, kRows * cols);
    for (int64_t i = 0; i < kRows * cols; ++i) x[i] *= i / cols == 5 ? NAN : std::pow(10.0f, float(i / cols % 5) - 2);
    Buffer device_x = UploadAs(device(), type, x);
    Arena scratch = Scratch(device(), LinearScratchBytes(device(), kRows, w.weight));
    const auto product = [&](int64_t first, int64_t rows) {
      Buffer out = Allocate(device(), rows * kOuts * 4);
      Linear(device(), View(out.data(), DType::kF32, rows, kOuts),
             View(device_x.data(), type, kRows, cols).Rows(first, rows), w.weight, scratch);
      return DownloadAs(device(), DType::kF32, out.data(), rows * kOuts);
    };
    for (int64_t rows = 2; rows <= kRows; ++rows) {
      const std::vector<float> all = product(0, rows);
      for (int64_t r = 0; r < rows; ++r) {
        if (r == 5) continue;
        const std::vector<float> alone = product(r, 1);
        ASSERT_EQ(0, memcmp(alone.data(), &all[r * kOuts], kOuts * 4)) << "inputs " << cols << " row " << r;
        for (float y : alone) ASSERT_TRUE(std::isfinite(y));
      }
    }
  }
}

TEST_P(ScaleBlocks, RowsAreEmbeddedExactly) {
  std::mt19937 rng(61);
  const TestWeight w = MakeScaleBlockWeight(device(), 150, 200, 128, 128, false, rng);
  const std::vector<int32_t> ids = {149, 0, 127, 128, 64};
  Buffer device_ids = Upload(device(), ids), out = Allocate(device(), 4 * ids.size() * 200);
  Embed(device(), View(out.data(), DType::kF32, ids.size(), 200), device_ids.as<int32_t>(), w.weight, 0);
  const std::vector<float> got = DownloadAs(device(), DType::kF32, out.data(), ids.size() * 200);
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(got[i], static_cast<float>(w.values[ids[i / 200] * 200 + i % 200])) << i;
}

// Random weights: every scale is written, none beside them.
TEST_P(ScaleBlocks, RandomWeightsHaveAScaleForEveryBlock) {
  Weight w;
  w.dtype = DType::kF8E4M3;
  w.rows = 300, w.cols = 200, w.block = 128, w.group = 128;
  Buffer data = Allocate(device(), w.rows * w.cols), scales = Allocate(device(), 4 * (ScaleCount(w) + 1));
  w.data = data.data();
  w.scales = scales.as<float>();
  ASSERT_EQ(ScaleCount(w), 6);
  EXPECT_EQ(w.bytes(), 300u * 200 + 6 * 4);
  FillWeight(device(), w, 3, 0.5f);
  const std::vector<float> got = DownloadAs(device(), DType::kF32, scales.data(), 7);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(got[i], 0.5f / 448.0f);
  EXPECT_TRUE(std::isnan(got[6]));
}

}  // namespace
}  // namespace duo
