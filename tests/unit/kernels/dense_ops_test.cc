#include <bit>

#include "devices.h"
#include "kernels/attention.h"
#include "kernels/ops.h"
#include "reference.h"

namespace duo {
namespace {

class DenseOps : public DeviceTest {};
INSTANTIATE_ON_DEVICES(DenseOps);

TEST_P(DenseOps, FillRowsRepeatsOneRowAndWritesNothingElse) {
  const DType type = activation();
  std::mt19937 rng(5);
  const int rows = 7, cols = 1000, stride = 1003;
  const std::vector<float> row = Normal(rng, cols), poison(rows * stride, 99.0f);
  Buffer from = Upload(device(), row), out = UploadAs(device(), type, poison);
  FillRows(device(), View(out.data(), type, rows, stride).Cols(2, cols), from.as<float>());
  const std::vector<float> got = DownloadAs(device(), type, out.data(), rows * stride);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < stride; ++c) {
      const bool within = c >= 2 && c < 2 + cols;
      ASSERT_EQ(got[r * stride + c], within ? Rounded(type, row[c - 2]) : 99.0f) << r << " " << c;
    }
  }
}

TEST_P(DenseOps, AddRmsNormAddsAndNormalises) {
  const DType type = activation();
  for (int cols : {8, 64, 136, 1000, 4096}) {
    for (int rows : {1, 7, 129}) {
      for (bool with_add : {false, true}) {
        for (bool with_out : {false, true}) {
          std::mt19937 rng(cols + rows);
          std::vector<float> x = Normal(rng, rows * cols), a = Normal(rng, rows * cols), w = Normal(rng, cols);
          for (float& v : a) v = Rounded(type, v);
          Buffer dx = Upload(device(), x), da = UploadAs(device(), type, a), dw = Upload(device(), w),
                 out = Allocate(device(), Bytes(type, rows * cols));
          AddRmsNorm(device(), with_out ? View(out.data(), type, rows, cols) : View(),
                     View(dx.data(), DType::kF32, rows, cols), with_add ? View(da.data(), type, rows, cols) : View(),
                     with_out ? dw.as<float>() : nullptr, 1e-5f);
          std::vector<float> sums(rows * cols), plain(rows * cols);
          std::vector<double> truth(rows * cols);
          for (int r = 0; r < rows; ++r) {
            double square = 0;
            float plain_square = 0;
            for (int c = 0; c < cols; ++c) {
              const float sum = sums[r * cols + c] = x[r * cols + c] + (with_add ? a[r * cols + c] : 0.0f);
              square += double{sum} * sum;
              plain_square += sum * sum;
            }
            for (int c = 0; c < cols; ++c) {
              const float sum = sums[r * cols + c];
              truth[r * cols + c] = sum / std::sqrt(square / cols + 1e-5f) * w[c];
              plain[r * cols + c] = Rounded(type, sum * (1.0f / std::sqrt(plain_square / cols + 1e-5f)) * w[c]);
            }
          }
          EXPECT_EQ(Download<float>(device(), dx.data(), rows * cols), sums);
          const std::vector<float> got = DownloadAs(device(), type, out.data(), rows * cols);
          if (with_out) {
            ExpectAsGoodAs(got, plain, truth, type, "norm");
          } else {
            for (float v : got) ASSERT_TRUE(std::isnan(v));
          }
        }
      }
    }
  }
}

TEST_P(DenseOps, SwiGluMatchesAndSurvivesLargeGates) {
  const DType type = activation();
  for (int n : {8, 136, 1000}) {
    const int rows = 9;
    std::mt19937 rng(n);
    std::vector<float> x = Normal(rng, rows * 2 * n, 4.0f);
    const float large[] = {-1e4f, -100.0f, -88.5f, 88.5f, 100.0f, 1e4f, 0.0f, -0.0f};
    std::copy(std::begin(large), std::end(large), x.begin());
    for (float& v : x) v = Rounded(type, v);
    Buffer dx = UploadAs(device(), type, x), out = Allocate(device(), Bytes(type, rows * n));
    SwiGlu(device(), View(out.data(), type, rows, n), View(dx.data(), type, rows, 2 * n));
    const std::vector<float> got = DownloadAs(device(), type, out.data(), rows * n);
    // Every element to a few roundings of its own: the formula has no cancellation.
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < n; ++c) {
        const double g = x[r * 2 * n + c], u = x[r * 2 * n + n + c], exact = g / (1 + std::exp(-g)) * u;
        ASSERT_NEAR(got[r * n + c], exact, 4 * UnitRoundoff(type) * std::abs(exact) + 1e-30) << "gate " << g;
      }
    }
  }
}

TEST_P(DenseOps, GatherRowsCopiesRowsOfAnyType) {
  std::mt19937 rng(1);
  const std::vector<int32_t> rows = {4, 0, 4, 2};
  Buffer device_rows = Upload(device(), rows);
  for (DType type : {DType::kF32, DType::kBF16}) {
    std::vector<float> x = Normal(rng, 5 * 129);
    for (float& v : x) v = Rounded(type, v);
    Buffer in = UploadAs(device(), type, x), out = Allocate(device(), Bytes(type, 4 * 137));
    GatherRows(device(), View(out.data(), type, 4, 129, 137), View(in.data(), type, 5, 129), device_rows.as<int32_t>(),
               4);
    const std::vector<float> got = DownloadAs(device(), type, out.data(), 4 * 137);
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 129; ++c) ASSERT_EQ(got[r * 137 + c], x[rows[r] * 129 + c]);
      for (int c = 129; c < 137; ++c) ASSERT_TRUE(std::isnan(got[r * 137 + c]));
    }
  }
}

TEST_P(DenseOps, RopeAnglesAreExactAtFourMillion) {
  const std::vector<int32_t> positions = {0, 1, 7, 1000, 131071, 1000003, 4194303};
  const int half = 32;
  std::vector<double> frequencies(half);
  for (int i = 0; i < half; ++i) frequencies[i] = std::pow(500000.0, -2.0 * i / (2 * half));
  Buffer p = Upload(device(), positions), f = Upload(device(), frequencies),
         out = Allocate(device(), positions.size() * 2 * half * 4);
  RopeAngles(device(), View(out.data(), DType::kF32, positions.size(), 2 * half), p.as<int32_t>(), f.as<double>(), 1.5);
  const std::vector<float> got = Download<float>(device(), out.data(), positions.size() * 2 * half);
  for (size_t r = 0; r < positions.size(); ++r) {
    for (int i = 0; i < half; ++i) {
      const double angle = positions[r] * frequencies[i];
      ASSERT_NEAR(got[r * 2 * half + i], 1.5 * std::cos(angle), 2e-7) << positions[r] << " " << i;
      ASSERT_NEAR(got[r * 2 * half + half + i], 1.5 * std::sin(angle), 2e-7) << positions[r] << " " << i;
    }
  }
}

// Sylvester's matrix by its closed form, row i and column j: the sign is the parity of the bits that i and j share.
double HadamardElement(int i, int j, int block) {
  if (i / block != j / block) return 0;
  return (std::popcount(static_cast<unsigned>(i % block & j % block)) % 2 == 0 ? 1 : -1) / std::sqrt(double(block));
}

TEST_P(DenseOps, RotateQkNormalisesRotatesAndShiftsQueriesAndKeysOnly) {
  const DType type = activation();
  for (int round = 0; round < 4; ++round) {
    const bool normed = round % 2 == 1, shifted = round / 2 == 1;
    for (int d : {64, 80, 128}) {
      const bool hadamard = d != 80 || !device().is_cuda();  // CUDA's attention takes 64 and 128
      const HeadShape shape{d, 3, 2, hadamard ? 1 : 0};
      const int rows = 37, cols = shape.qkv_cols(), half = d / 2;
      std::mt19937 rng(d);
      std::vector<float> x = Normal(rng, rows * cols), cs = Normal(rng, rows * d), qn = Normal(rng, d),
                         kn = Normal(rng, d), shift = Normal(rng, 2 * d);
      for (float& v : x) v = Rounded(type, v);
      Buffer dx = UploadAs(device(), type, x), dcs = Upload(device(), cs), dq = Upload(device(), qn),
             dk = Upload(device(), kn), dshift = Upload(device(), shift);
      RotateQk(device(), View(dx.data(), type, rows, cols), shape, View(dcs.data(), DType::kF32, rows, d),
               {normed ? dq.as<float>() : nullptr, normed ? dk.as<float>() : nullptr, 1e-6f},
               shifted ? dshift.as<float>() : nullptr);
      std::vector<float> plain = x;
      std::vector<double> truth(x.begin(), x.end());
      for (int r = 0; r < rows; ++r) {
        for (int h = 0; h < 2 * 3 + 2; ++h) {
          const size_t at = size_t(r) * cols + h * d;
          const std::vector<float>& w = h < 6 ? qn : kn;
          double sum = 0;
          for (int i = 0; i < d; ++i) sum += double{x[at + i]} * x[at + i];
          const auto value = [&](int i) {
            return normed ? x[at + i] / std::sqrt(sum / d + 1e-6f) * w[i] : double{x[at + i]};
          };
          for (int i = 0; i < half; ++i) {
            const double c = cs[r * d + i], s = cs[r * d + half + i], a = value(i), b = value(half + i);
            truth[at + i] = a * c - b * s;
            truth[at + half + i] = b * c + a * s;
            const float fa = static_cast<float>(a), fb = static_cast<float>(b), fc = cs[r * d + i],
                        fs = cs[r * d + half + i];
            const bool shifts = shifted && h >= 6;  // keys alone
            const float s1 = shifts ? shift[(h - 6) * d + i] : 0, s2 = shifts ? shift[(h - 6) * d + half + i] : 0;
            truth[at + i] -= s1;
            truth[at + half + i] -= s2;
            plain[at + i] = Rounded(type, fa * fc - fb * fs - s1);
            plain[at + half + i] = Rounded(type, fb * fc + fa * fs - s2);
          }
          if (hadamard && (h < 3 || h == 6)) {  // the first KV head and its queries
            const std::vector<double> rotated(truth.begin() + at, truth.begin() + at + d);
            for (int i = 0; i < d; ++i) {
              truth[at + i] = 0;
              for (int j = 0; j < d; ++j) truth[at + i] += HadamardElement(i, j, d & -d) * rotated[j];
              plain[at + i] = Rounded(type, static_cast<float>(truth[at + i]));
            }
          }
        }
      }
      ExpectAsGoodAs(DownloadAs(device(), type, dx.data(), x.size()), plain, truth, type, "rotated");
      const std::vector<float> got = DownloadAs(device(), type, dx.data(), x.size());
      for (int r = 0; r < rows; ++r) {
        for (int c = 8 * d; c < cols; ++c) ASSERT_EQ(got[size_t(r) * cols + c], x[size_t(r) * cols + c]) << "v";
      }
    }
  }
}

// The pieces of split heads, scaled by each rank and added up as the all-reduce does, are the merged heads.
TEST_P(DenseOps, ScaledSplitHeadsAddUpToTheMergeOfTheirParts) {
  const DType type = activation();
  const int ranks = 3, entries = 4, d = 64, rows = 9;
  // Head 7 lies on ranks 0, 1, 2; head 9 on ranks 1, 2; entry order differs between ranks.
  const std::vector<int32_t> ids = {7, -1, -1, -1, 9, 7, -1, -1, 7, 9, -1, -1};
  std::mt19937 rng(11);
  std::vector<float> lse = Normal(rng, ranks * entries * rows, 3.0f);
  lse[(0 * entries + 0) * rows + 2] = -INFINITY;  // row 2: rank 0's part of head 7 is empty
  for (int e = 0; e < ranks * entries; ++e) {
    if (ids[e] == 9) lse[e * rows + 3] = -INFINITY;  // row 3: nobody sees anything of head 9
    if (ids[e] == -1) std::fill_n(&lse[e * rows], rows, NAN);
  }
  std::vector<double> merged(rows * 16 * d), expected(rows * 16 * d);
  for (int rank = 0; rank < ranks; ++rank) {
    const int heads = rank == 0 ? 1 : 2;
    std::vector<float> o = Normal(rng, rows * 3 * d);
    for (float& v : o) v = Rounded(type, v);
    Buffer out = UploadAs(device(), type, o), all = Upload(device(), lse), device_ids = Upload(device(), ids);
    ScaleSplitHeads(device(), View(out.data(), type, rows, 3 * d), d, heads,
                    {all.as<float>(), device_ids.as<int32_t>(), ranks, entries, rank});
    const std::vector<float> got = DownloadAs(device(), type, out.data(), o.size());
    for (int r = 0; r < rows; ++r) {
      for (int h = 0; h < heads; ++h) {
        const int id = ids[rank * entries + h];
        double sum = 0;
        for (int e = 0; e < ranks * entries; ++e) {
          if (ids[e] == id) sum += std::exp(double{lse[e * rows + r]});
        }
        const double mine = lse[(rank * entries + h) * rows + r];
        const double weight = sum > 0 ? std::exp(mine) / sum : 0.0;
        for (int i = 0; i < d; ++i) {
          merged[(r * 16 + id) * d + i] += got[r * 3 * d + h * d + i];
          expected[(r * 16 + id) * d + i] += weight * o[r * 3 * d + h * d + i];
        }
      }
      for (int c = heads * d; c < 3 * d; ++c) ASSERT_EQ(got[r * 3 * d + c], o[r * 3 * d + c]) << "not a split head";
    }
  }
  for (size_t i = 0; i < merged.size(); ++i) ASSERT_NEAR(merged[i], expected[i], 16 * UnitRoundoff(type)) << i;
}

// A learned sink takes its share and gives nothing, of heads that stand for themselves and of split ones.
TEST_P(DenseOps, SinksTakeTheirShare) {
  const DType type = activation();
  constexpr int kHeads = 3, d = 64, rows = 7;
  std::mt19937 rng(12);
  std::vector<float> lse = Normal(rng, 2 * kHeads * rows, 3.0f);
  lse[rows + 4] = -INFINITY;  // row 4 sees nothing of head 1
  const std::vector<float> sinks = {0.5f, -2.0f, 4.0f};
  for (const int ranks : {1, 2}) {
    const std::vector<int32_t> ids = {0, 1, 2, 2, 7, 0};
    std::vector<float> o = Normal(rng, rows * kHeads * d);
    for (float& v : o) v = Rounded(type, v);
    Buffer out = UploadAs(device(), type, o), all = Upload(device(), lse), device_ids = Upload(device(), ids),
           device_sinks = Upload(device(), sinks);
    ScaleSplitHeads(device(), View(out.data(), type, rows, kHeads * d), d, kHeads,
                    {all.as<float>(), device_ids.as<int32_t>(), ranks, kHeads, 0, device_sinks.as<float>()});
    const std::vector<float> got = DownloadAs(device(), type, out.data(), o.size());
    for (int r = 0; r < rows; ++r) {
      for (int h = 0; h < kHeads; ++h) {
        double sum = std::exp(double{sinks[h]});
        for (int e = 0; e < ranks * kHeads; ++e) {
          if (ids[e] == h) sum += std::exp(double{lse[e * rows + r]});
        }
        const double weight = std::exp(double{lse[h * rows + r]}) / sum;
        for (int i = 0; i < d; ++i) {
          const int64_t at = (r * kHeads + h) * d + i;
          ASSERT_NEAR(got[at], weight * o[at], 8 * UnitRoundoff(type)) << "head " << h << " row " << r;
        }
      }
    }
  }
}

TEST(MergeWeights, OfPartsIsTheWholeAndEmptyPartsCountNothing) {
  const MergedWeights none = MergeWeights(-INFINITY, -INFINITY);
  EXPECT_EQ(none.a, 0.0f);
  EXPECT_EQ(none.b, 0.0f);
  EXPECT_EQ(none.lse, -INFINITY);
  const MergedWeights one = MergeWeights(-INFINITY, 3.0f);
  EXPECT_EQ(one.a, 0.0f);
  EXPECT_EQ(one.b, 1.0f);
  EXPECT_EQ(one.lse, 3.0f);
  const MergedWeights two = MergeWeights(std::log(3.0f), std::log(1.0f));
  EXPECT_NEAR(two.a, 0.75f, 1e-6);
  EXPECT_NEAR(two.b, 0.25f, 1e-6);
  EXPECT_NEAR(two.lse, std::log(4.0f), 1e-6);
}

TEST_P(DenseOps, PagesAreCopiedForEveryHeadOfTheLayer) {
  PagedKv pages;
  pages.page = {KvFormat::kInt4, 64};
  pages.num_heads = 3;
  pages.slots = 4;
  pages.first_slot = 1;
  pages.num_slots = 2;
  pages.head_stride = 5 * pages.id_stride() + 64;
  std::mt19937 rng(2);
  std::vector<uint8_t> bytes(3 * pages.head_stride);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
  Buffer memory = Upload(device(), bytes);
  pages.base = memory.as<uint8_t>();
  CopyPage(device(), pages, 3, 1);
  for (int h = 0; h < 3; ++h) {
    std::copy_n(bytes.begin() + h * pages.head_stride + 3 * pages.id_stride(), pages.id_stride(),
                bytes.begin() + h * pages.head_stride + pages.id_stride());
  }
  EXPECT_EQ(Download<uint8_t>(device(), pages.base, bytes.size()), bytes);
}

}  // namespace
}  // namespace duo
