#include "kernels/ops.h"
#include "product_fixture.h"

namespace duo {
namespace {

constexpr DType kWeightTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kI4};

class Linears : public ProductTest {
 protected:
  void Run(DType dtype, int64_t rows, int64_t outs, int64_t cols, int group, bool bias, DType out_type) {
    SCOPED_TRACE(testing::Message() << Name(dtype) << " rows " << rows << " outputs " << outs << " inputs " << cols);
    std::mt19937 rng(static_cast<unsigned>(rows * 7919 + outs * 31 + cols));
    CheckLinear(MakeWeight(device(), dtype, outs, cols, group, bias, rng), rows, out_type, rng);
  }
};
INSTANTIATE_ON_DEVICES(Linears);

TEST_P(Linears, MatchForEveryFormatAndNumberOfRows) {
  for (DType dtype : kWeightTypes) {
    for (int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 33, 49, 64, 100, 129, 256, 300})
      Run(dtype, rows, 136, 256, 64, rows % 2 == 0, activation());
  }
}

TEST_P(Linears, SwiGluOfAProductMatches) {
  for (DType dtype : kWeightTypes) {
    for (int64_t rows : {1, 3, 8, 11, 40}) {
      for (int64_t n : {8, 72, 2120}) {  // one tile, an odd number of tiles, more than one for each multiprocessor
        SCOPED_TRACE(testing::Message() << Name(dtype) << " rows " << rows << " outputs " << n);
        std::mt19937 rng(static_cast<unsigned>(rows * 31 + n));
        CheckSwiGlu(MakeWeight(device(), dtype, 2 * n, n > 1000 ? 256 : 1280, 64, n == 72, rng), rows, rng);
      }
    }
  }
}

// Kernels that scale rows of x to a narrower format must not mix them up, nor lose what lies beside an outlier, nor
// hide a NaN.
TEST_P(Linears, TakeRowsOfAnySize) {
  constexpr int64_t kOuts = 72, kCols = 640;
  const DType type = activation();
  for (DType dtype : {DType::kI8, DType::kI4, DType::kF8E4M3, DType::kF16, DType::kBF16}) {
    for (int64_t rows : {1, 3, 4, 7, 9, 16}) {
      std::mt19937 rng(static_cast<unsigned>(rows));
      const TestWeight w = MakeWeight(device(), dtype, kOuts, kCols, 128, false, rng);
      std::vector<float> x = Normal(rng, rows * kCols);
      for (int64_t i = 0; i < rows * kCols; ++i) {
        const int64_t r = i / kCols, c = i % kCols;
        x[i] *= std::pow(10.0f, static_cast<float>(r * 5 % 13 - 6)) * (c == 77 ? 100.0f : 1.0f);
        if (r == 2) x[i] = 0;
        if (r == 5) x[i] = c == 300 ? NAN : x[i];
        if (r == 6) x[i] = c == 301 ? INFINITY : x[i];
        x[i] = Rounded(type, x[i]);
      }
      Buffer device_x = UploadAs(device(), type, x), out = Allocate(device(), rows * kOuts * 4);
      Arena scratch = Scratch(device(), LinearScratchBytes(device(), rows, w.weight));
      Linear(device(), View(out.data(), DType::kF32, rows, kOuts), View(device_x.data(), type, rows, kCols), w.weight,
             scratch);
      const std::vector<float> all = DownloadAs(device(), DType::kF32, out.data(), rows * kOuts);
      for (int64_t r = 0; r < rows; ++r) {
        SCOPED_TRACE(testing::Message() << Name(dtype) << " row " << r << " of " << rows);
        const std::vector<float> got(all.begin() + r * kOuts, all.begin() + (r + 1) * kOuts);
        if (r == 5 || r == 6) {
          for (float y : got) ASSERT_FALSE(std::isfinite(y));
          continue;
        }
        std::vector<float> plain;
        std::vector<double> truth;
        for (int64_t o = 0; o < kOuts; ++o) {
          const auto [exact, simple] = Product(w, o, &x[r * kCols]);
          truth.push_back(exact);
          plain.push_back(Rounded(type, simple));
        }
        ExpectAsGoodAs(got, plain, truth, type, "Linear");
      }
    }
  }
}

TEST_P(Linears, MatchForUglySizes) {
  if (cuda()) GTEST_SKIP() << "CUDA takes multiples of 8";
  for (DType dtype : kWeightTypes) {
    if (dtype == DType::kI4) continue;  // whole groups only
    for (int64_t outs : {1, 7, 129, 257}) {
      for (int64_t cols : {1, 7, 129, 255, 1000}) {
        for (int64_t rows : {1, 3, 17}) Run(dtype, rows, outs, cols, 0, false, DType::kF32);
      }
    }
  }
}

TEST_P(Linears, MatchForEveryInt4Group) {
  for (int group : {32, 64, 128}) {
    for (int64_t rows : {1, 4, 6, 11, 40, 61, 128, 200}) Run(DType::kI4, rows, 72, 384, group, true, activation());
  }
}

// Of one and two levels, 4 and 8 bits, few rows and many; blocks of one group too. Those that CUDA has no kernels of a
// few rows for are dequantised there.
TEST_P(Linears, CodesInGroupsOfOneAndTwoLevels) {
  std::mt19937 rng(17);
  for (DType dtype : {DType::kI4, DType::kI8}) {
    for (int group : {16, 32, 64, 128}) {
      if (dtype == DType::kI4 && group == 16) continue;
      for (int block : {0, group, 128, 256}) {
        if (block > 0 && block < group) continue;
        for (int64_t rows : {1, 3, 7, 13, 60, 150}) {
          SCOPED_TRACE(testing::Message()
                       << Name(dtype) << " groups of " << group << " blocks of " << block << " rows " << rows);
          CheckLinear(MakeGroupedWeight(device(), dtype, 37, 768, group, block, rng), rows, activation(), rng);
        }
      }
    }
  }
}

// Codes of a table, few rows and many, in columns that are whole blocks of the kernels' and that are not.
TEST_P(Linears, CodesOfATable) {
  std::mt19937 rng(23);
  for (auto [table, block] : {std::pair(CodeTable::kIq4, 0), std::pair(CodeTable::kIq4, 32),
                              std::pair(CodeTable::kIq4, 256), std::pair(CodeTable::kE2M1, 0)}) {
    for (int64_t cols : {32, 352, 768, 2880}) {
      if (block > 0 && cols % block != 0) continue;
      const TestWeight w = MakeTableWeight(device(), table, 37, cols, block, rng);
      for (int64_t rows : {1, 2, 3, 8, 16, 17, 60, 150, 300}) {
        if (cols == 2880 && rows > 17 && rows != 60) continue;
        SCOPED_TRACE(testing::Message() << "table " << static_cast<int>(table) << " blocks of " << block << " columns "
                                        << cols << " rows " << rows);
        CheckLinear(w, rows, rows % 2 == 0 ? activation() : DType::kF32, rng);
      }
    }
  }
}

// Scales of e2m1 reach from 2^-127 on, below f32's normal numbers.
TEST_P(Linears, PowersOfTwoMayBeTheLeast) {
  std::mt19937 rng(29);
  TestWeight w = MakeTableWeight(device(), CodeTable::kE2M1, 8, 64, 0, rng);
  const std::vector<uint8_t> exponents = {0, 1, 2, 126, 127, 128, 190, 200, 0, 0, 1, 1, 2, 3, 4, 5};
  const std::vector<uint8_t> sixes(8 * 32, 0x57);  // 6 and 3
  w.exponents = Upload(device(), exponents);
  w.weight.exponents = w.exponents.as<uint8_t>();
  w.data = Upload(device(), sixes);
  w.weight.data = w.data.data();
  const std::vector<int32_t> ids = {0, 1, 2, 3, 4, 5, 6, 7};
  Buffer device_ids = Upload(device(), ids), out = Allocate(device(), 4 * 8 * 64);
  Embed(device(), View(out.data(), DType::kF32, 8, 64), device_ids.as<int32_t>(), w.weight, 0);
  const std::vector<float> got = DownloadAs(device(), DType::kF32, out.data(), 8 * 64);
  for (int i = 0; i < 8 * 64; ++i)
    ASSERT_EQ(got[i], std::ldexp(i % 2 == 0 ? 6.0f : 3.0f, exponents[i / 32] - 127)) << i;
}

// Columns that end within a block of the kernels of a few rows, and within a tile of those of more.
TEST_P(Linears, ColumnsThatAreNoWholeBlocks) {
  std::mt19937 rng(31);
  for (int64_t rows : {1, 2, 3, 5, 16, 17, 100}) {
    for (auto [dtype, cols, group] :
         {std::tuple(DType::kI4, 32, 32), std::tuple(DType::kI4, 160, 32), std::tuple(DType::kI4, 352, 32),
          std::tuple(DType::kI4, 2880, 64), std::tuple(DType::kI8, 96, 32), std::tuple(DType::kI8, 80, 16)}) {
      SCOPED_TRACE(testing::Message() << Name(dtype) << " columns " << cols << " rows " << rows);
      CheckLinear(MakeGroupedWeight(device(), dtype, 150, cols, group, 0, rng), rows, activation(), rng);
    }
    for (auto dtype : {DType::kI8, DType::kF8E4M3}) {
      for (int64_t cols : {16, 80, 208}) Run(dtype, rows, 150, cols, 0, true, activation());
    }
  }
}

// More outputs than a GPU multiplies at once: a block has several tiles, the last of them not whole, and warps of fewer
// and of more columns than they ask for ahead.
TEST_P(Linears, MatchForManyOutputs) {
  std::mt19937 rng(37);
  constexpr int64_t kOuts = 8500;
  for (int group : {32, 64, 128}) {
    for (int64_t cols : {128, 640}) {
      const TestWeight w = MakeGroupedWeight(device(), DType::kI4, kOuts, cols, group, 0, rng);
      for (int64_t rows : {1, 2}) {
        SCOPED_TRACE(testing::Message() << "groups of " << group << " columns " << cols << " rows " << rows);
        CheckLinear(w, rows, rows == 1 ? DType::kF32 : activation(), rng);
      }
    }
    CheckSwiGlu(MakeWeight(device(), DType::kI4, 8528, 640, group, group == 64, rng), 1, rng);
  }
  CheckLinear(MakeGroupedWeight(device(), DType::kI4, kOuts, 768, 32, 256, rng), 1, activation(), rng);
}

// A few rows of codes in groups: a row has the bits that it has alone, however k is cut.
TEST_P(Linears, RowsOfCodesInGroupsAreTheSameInCompany) {
  device().KeepRowsAlike(true);
  std::mt19937 rng(19);
  const DType type = activation();
  constexpr int64_t kOuts = 200;
  const int64_t most_rows = cuda() ? 8 : 4;
  constexpr CodeTable kNone = CodeTable::kNone;
  for (auto [dtype, group, block, table] :
       {std::tuple(DType::kI4, 128, 0, kNone), std::tuple(DType::kI4, 32, 256, kNone),
        std::tuple(DType::kI8, 32, 0, kNone), std::tuple(DType::kI8, 16, 256, kNone),
        std::tuple(DType::kI4, 32, 256, CodeTable::kIq4), std::tuple(DType::kI4, 32, 0, CodeTable::kE2M1)}) {
    for (int64_t cols : {256, 1280, 14336, 2880}) {
      if (cols % group != 0 || (block > 0 && cols % block != 0)) continue;
      const TestWeight w = table != kNone ? MakeTableWeight(device(), table, kOuts, cols, block, rng)
                                          : MakeGroupedWeight(device(), dtype, kOuts, cols, group, block, rng);
      std::vector<float> x = Normal(rng, most_rows * cols);
      for (int64_t i = 0; i < most_rows * cols; ++i) x[i] *= static_cast<float>(1 + 1000 * (i / cols));
      Buffer device_x = UploadAs(device(), type, x);
      Arena scratch = Scratch(device(), LinearScratchBytes(device(), most_rows, w.weight));
      const DType out_type = table == CodeTable::kE2M1 ? type : DType::kF32;  // whose f32 goes through other kernels
      const auto product = [&](int64_t first, int64_t rows) {
        Buffer out = Allocate(device(), rows * kOuts * 4);
        Linear(device(), View(out.data(), out_type, rows, kOuts),
               View(device_x.data(), type, most_rows, cols).Rows(first, rows), w.weight, scratch);
        return DownloadAs(device(), out_type, out.data(), rows * kOuts);
      };
      for (int64_t rows = 2; rows <= most_rows; ++rows) {
        const std::vector<float> all = product(0, rows);
        for (int64_t r = 0; r < rows; ++r) {
          const std::vector<float> alone = product(r, 1);
          ASSERT_EQ(0, memcmp(alone.data(), &all[r * kOuts], kOuts * 4))
              << Name(dtype) << ":" << group << "/" << block << " inputs " << cols << " row " << r << " of " << rows;
        }
      }
    }
  }
}

TEST_P(Linears, RowsInGroupsAreEmbeddedExactly) {
  std::mt19937 rng(18);
  for (DType dtype : {DType::kI4, DType::kI8}) {
    const TestWeight w = MakeGroupedWeight(device(), dtype, 5, 512, 32, 256, rng);
    const std::vector<int32_t> ids = {4, 0, 2};
    Buffer device_ids = Upload(device(), ids), out = Allocate(device(), 4 * 3 * 512);
    Embed(device(), View(out.data(), DType::kF32, 3, 512), device_ids.as<int32_t>(), w.weight, 0);
    const std::vector<float> got = DownloadAs(device(), DType::kF32, out.data(), 3 * 512);
    for (int i = 0; i < 3 * 512; ++i)
      ASSERT_EQ(got[i], static_cast<float>(w.values[ids[i / 512] * 512 + i % 512])) << Name(dtype) << " " << i;
  }
}

TEST_P(Linears, MatchWhenPanelsAreCutInEveryDirection) {
  for (DType dtype : kWeightTypes) {
    Run(dtype, 1, 520, 4224, 128, true, DType::kF32);
    Run(dtype, 20, 264, 4224, 128, true, DType::kF32);
    Run(dtype, 100, 264, 4224, 128, true, DType::kF32);
    Run(dtype, 230, 1032, 4224, 128, false, activation());
  }
  Run(DType::kBF16, 1100, 136, 64, 0, false, DType::kF32);
}

TEST_P(Linears, DoNotDependOnTheNumberOfThreads) {
  if (cuda()) GTEST_SKIP() << "about the CPU's threads";
  for (DType dtype : kWeightTypes) {
    for (int64_t rows : {1, 40}) {
      std::vector<float> results[2];
      for (int threads : {1, 4}) {
        auto cpu = Device::Cpu(threads);
        std::mt19937 rng(5);
        const TestWeight w = MakeWeight(*cpu, dtype, 300, 512, 128, false, rng);
        std::vector<float> x = Normal(rng, rows * 512);
        std::vector<float>& y = results[threads == 4];
        y.resize(rows * 300);
        Arena scratch = Scratch(*cpu, LinearScratchBytes(*cpu, rows, w.weight));
        Linear(*cpu, View(y.data(), DType::kF32, rows, 300), View(x.data(), DType::kF32, rows, 512), w.weight, scratch);
      }
      EXPECT_EQ(results[0], results[1]) << Name(dtype) << " rows " << rows;
    }
  }
}

TEST_P(Linears, EmbeddingGivesExactRowsAndZeroOutsideTheShard) {
  for (DType dtype : kWeightTypes) {
    std::mt19937 rng(3);
    const TestWeight table = MakeWeight(device(), dtype, 50, 192, 64, false, rng);
    const std::vector<int32_t> ids = {100, 149, 99, 150, 0, 120, 120};
    Buffer device_ids = Upload(device(), ids), out = Allocate(device(), ids.size() * 200 * 4);
    Embed(device(), View(out.data(), DType::kF32, ids.size(), 192, 200), device_ids.as<int32_t>(), table.weight, 100);
    const std::vector<float> got = Download<float>(device(), out.data(), ids.size() * 200);
    for (size_t r = 0; r < ids.size(); ++r) {
      for (int c = 0; c < 192; ++c) {
        const int row = ids[r] - 100;
        const double exact = row >= 0 && row < 50 ? table.values[row * 192 + c] : 0.0;
        ASSERT_EQ(got[r * 200 + c], static_cast<float>(exact)) << Name(dtype) << " id " << ids[r] << " column " << c;
      }
      for (int c = 192; c < 200; ++c) ASSERT_TRUE(std::isnan(got[r * 200 + c]));
    }
  }
}

TEST(WeightBytes, CountCodesAndParameters) {
  Weight w;
  w.rows = 10;
  w.cols = 256;
  w.dtype = DType::kBF16;
  EXPECT_EQ(w.bytes(), 5120u);
  w.dtype = DType::kI8;
  EXPECT_EQ(w.bytes(), 2560u + 40u);
  w.dtype = DType::kI4;
  w.group = 64;
  EXPECT_EQ(w.bytes(), 1280u + 10u * 4 * 4);
}

}  // namespace
}  // namespace duo
