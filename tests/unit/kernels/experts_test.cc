// Mixtures of experts against the sums written out, by the rule of reference.h.
#include "kernels/experts.h"

#include <numeric>

#include "reference.h"
#include "test_weight.h"

namespace duo {
namespace {

constexpr DType kWeightTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kI4};

constexpr float kAlpha = 1.702f;

struct Sizes {
  int experts, chosen;
  int64_t dim, columns, rows;
  int block = -1;            // 0: a scale and a minimum a group whatever the type; above: groups of two levels
  int first = 0, held = -1;  // of the experts those that the bank has; -1: all
  CodeTable table = CodeTable::kNone;
  int scale_rows = 0;  // above: fp8 in blocks of so many rows
  int up_exponent = 118, down_exponent = 118;  // the least of MXFP4's
  bool has(int expert) const { return held < 0 || (expert >= first && expert < first + held); }
};
// Those of a bank of all.
Weight HeldOf(const Weight& all, const Sizes& s) {
  if (s.held < 0) return all;
  Weight part = ExpertRows(all, s.experts, s.first);
  part.rows *= s.held;
  return part;
}

// Each row's experts, all different and never `idle`, and their weights.
struct HostRouting {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};
HostRouting MakeRouting(const Sizes& s, int idle, std::mt19937& rng) {
  HostRouting routing;
  std::vector<int32_t> order(s.experts);
  std::iota(order.begin(), order.end(), 0);
  order.erase(order.begin() + idle);
  std::uniform_real_distribution<float> weight(0.1f, 0.9f);
  for (int64_t r = 0; r < s.rows; ++r) {
    std::shuffle(order.begin(), order.end(), rng);
    for (int j = 0; j < s.chosen; ++j) {
      routing.experts.push_back(order[j]);
      routing.weights.push_back(weight(rng));
    }
  }
  return routing;
}

class Experts : public DeviceTest {
 protected:
  void RunMlp(DType dtype, const Sizes& s, int group, bool bias, float limit = 0) {
    SCOPED_TRACE(testing::Message() << Name(dtype) << " rows " << s.rows << " experts " << s.experts << " dim " << s.dim
                                    << " columns " << s.columns << " from " << s.first << " held " << s.held);
    std::mt19937 rng(static_cast<unsigned>(s.rows * 31 + s.columns));
    const DType type = activation();
    const auto make = [&](int64_t rows, int64_t cols, int exponent) {
      if (s.scale_rows > 0) return MakeScaleBlockWeight(device(), rows, cols, s.scale_rows, group, bias, rng);
      if (s.table != CodeTable::kNone) return MakeTableWeight(device(), s.table, rows, cols, s.block, rng, exponent);
      return s.block >= 0 ? MakeGroupedWeight(device(), dtype, rows, cols, group, s.block, rng)
                          : MakeWeight(device(), dtype, rows, cols, group, bias, rng);
    };
    const TestWeight up = make(s.experts * 2 * s.columns, s.dim, s.up_exponent),
                     down = make(s.experts * s.dim, s.columns, s.down_exponent);
    const int idle = s.experts - 2;
    for (int expert = 0; expert < s.experts; ++expert) {  // whoever reads it gets NaN, where the format has one
      if (expert != idle && s.has(expert)) continue;
      Poison(dtype, ExpertRows(up.weight, s.experts, expert));
      Poison(dtype, ExpertRows(down.weight, s.experts, expert));
    }
    const HostRouting host = MakeRouting(s, idle, rng);
    std::vector<float> x = Normal(rng, s.rows * s.dim);
    for (float& v : x) v = Rounded(type, v);
    Buffer device_x = UploadAs(device(), type, x), experts = Upload(device(), host.experts),
           weights = Upload(device(), host.weights), out = Allocate(device(), Bytes(type, s.rows * s.dim));
    const ExpertBank bank = {s.held < 0 ? s.experts : s.held,
                             HeldOf(up.weight, s),
                             HeldOf(down.weight, s),
                             limit,
                             kAlpha,
                             s.first,
                             s.experts};
    // What no expert here writes is to be zero, and what experts elsewhere would have written is nobody's.
    device().Fill(out.data(), 0xff, Bytes(type, s.rows * s.dim));
    const Routing routing = {experts.as<int32_t>(), weights.as<float>(), s.chosen};
    const size_t scratch_bytes = ExpertMlpScratchBytes(device(), s.rows, bank, s.chosen);
    Buffer room = Allocate(device(), std::max<size_t>(scratch_bytes, 1));
    device().Fill(room.data(), 0xff, room.size());
    Arena scratch(std::move(room));
    ExpertMlp(device(), View(out.data(), type, s.rows, s.dim), View(device_x.data(), type, s.rows, s.dim), bank,
              routing, scratch);
    EXPECT_EQ(scratch.used(), 0u);
    std::vector<float> plain(s.rows * s.dim);
    std::vector<double> truth(plain.size());
    for (int64_t slot = 0; slot < s.rows * s.chosen; ++slot) {
      if (!s.has(host.experts[slot])) continue;
      Add(s, host.experts[slot], host.weights[slot], {up, down, limit}, &x[slot / s.chosen * s.dim],
          &truth[slot / s.chosen * s.dim], &plain[slot / s.chosen * s.dim]);
    }
    for (float& v : plain) v = Rounded(type, v);
    const std::vector<float> got = DownloadAs(device(), type, out.data(), plain.size());
    ExpectAsGoodAs(got, plain, truth, type, "a mixture of experts");
    for (size_t i = 0; i < got.size(); ++i) {
      if (truth[i] == 0) {
        ASSERT_EQ(got[i], 0) << i;
      }
    }
  }

  void Poison(DType dtype, const Weight& part) {
    device().Fill(const_cast<void*>(part.data), 0xff, Bytes(dtype, part.rows * part.cols));
    if (part.scales != nullptr) {
      const int64_t scales = HasScaleBlocks(part) ? ScaleCount(part) : part.rows;
      device().Fill(const_cast<float*>(part.scales), 0xff, sizeof(float) * scales);
    }
    if (part.exponents != nullptr) {
      device().Fill(const_cast<uint8_t*>(part.exponents), 0xff, part.rows * part.cols / part.group);
    }
    if (part.groups != nullptr) {
      device().Fill(const_cast<uint16_t*>(part.groups), 0xff, 4 * part.rows * part.cols / part.pair_cols());
    }
  }

  struct Pair {
    const TestWeight &up, &down;
    float limit;
  };
  // Adds one expert's output for one row: exactly, and as a plain program at the working precision has it.
  void Add(const Sizes& s, int expert, float weight, const Pair& w, const float* x, double* truth, float* plain) {
    const DType type = activation();
    std::vector<double> exact(s.columns);
    std::vector<float> rough(s.columns);
    for (int64_t c = 0; c < s.columns; ++c) {
      double exact_half[2];
      float rough_half[2];
      for (int half = 0; half < 2; ++half) {
        const int64_t row = (expert * 2 + half) * s.columns + c;
        exact_half[half] = rough_half[half] = w.up.bias[row];
        for (int64_t i = 0; i < s.dim; ++i) {
          exact_half[half] += w.up.values[row * s.dim + i] * x[i];
          rough_half[half] += Rounded(type, static_cast<float>(w.up.values[row * s.dim + i])) * x[i];
        }
        rough_half[half] = Rounded(type, rough_half[half]);
      }
      if (w.limit > 0) {
        const double gate = std::min<double>(exact_half[0], w.limit);
        exact[c] =
            gate / (1 + std::exp(-double{kAlpha} * gate)) * (std::clamp<double>(exact_half[1], -w.limit, w.limit) + 1);
        const float rough_gate = std::min(rough_half[0], w.limit);
        rough[c] = Rounded(type, rough_gate / (1 + std::exp(-kAlpha * rough_gate)) *
                                     (std::clamp(rough_half[1], -w.limit, w.limit) + 1));
        continue;
      }
      exact[c] = exact_half[0] / (1 + std::exp(-exact_half[0])) * exact_half[1];
      rough[c] = Rounded(type, rough_half[0] / (1 + std::exp(-rough_half[0])) * rough_half[1]);
    }
    for (int64_t i = 0; i < s.dim; ++i) {
      const int64_t row = expert * s.dim + i;
      double exact_sum = w.down.bias[row];
      float rough_sum = w.down.bias[row];
      for (int64_t c = 0; c < s.columns; ++c) {
        exact_sum += w.down.values[row * s.columns + c] * exact[c];
        rough_sum += Rounded(type, static_cast<float>(w.down.values[row * s.columns + c])) * rough[c];
      }
      truth[i] += weight * exact_sum;
      plain[i] += weight * Rounded(type, rough_sum);
    }
  }
};
INSTANTIATE_ON_DEVICES(Experts);

TEST_P(Experts, MatchForEveryFormatAndNumberOfRows) {
  for (DType dtype : kWeightTypes) {
    if (cuda() && dtype == DType::kF32) continue;
    for (int64_t rows : {1, 2, 5, 17, 70}) RunMlp(dtype, {7, 3, 128, 64, rows}, 32, rows % 2 == 0);
  }
}

TEST_P(Experts, MatchForGroupsOfOneAndOfTwoLevels) {
  for (int64_t rows : {1, 7, 40}) {
    RunMlp(DType::kI8, {5, 2, 128, 64, rows, 0}, 32, false);
    RunMlp(DType::kI4, {5, 2, 256, 128, rows, 128}, 32, false);
    RunMlp(DType::kI8, {5, 2, 256, 128, rows, 128}, 32, false);
  }
}

// Codes of a table, whose columns are whole blocks of the kernels' or not; the last of more rows than few.
TEST_P(Experts, MatchForCodesOfATable) {
  for (int64_t rows : {1, 2, 5, 33}) {
    RunMlp(DType::kI4, {5, 2, 96, 160, rows, 0, 0, -1, CodeTable::kE2M1}, 32, false, 0.5f);
    RunMlp(DType::kI4, {4, 3, 64, 2880, rows, 0, 0, -1, CodeTable::kE2M1}, 32, false);
    RunMlp(DType::kI4, {4, 2, 2880, 32, rows, 0, 0, -1, CodeTable::kE2M1}, 32, false);
    RunMlp(DType::kI4, {5, 2, 96, 160, rows, 0, 0, -1, CodeTable::kIq4}, 32, false);
    RunMlp(DType::kI4, {5, 2, 512, 256, rows, 256, 0, -1, CodeTable::kIq4}, 32, false);
  }
  RunMlp(DType::kI4, {3, 2, 96, 160, 301, 0, 0, -1, CodeTable::kE2M1}, 32, false);
}

// Powers of two far from one, which one product in bf16 cannot apply, and those that leave a code few bits in it.
TEST_P(Experts, MatchForPowersOfEverySize) {
  for (const auto& [up, down] : {std::pair(131, 20), {90, 200}, {118, 0}, {150, 1}}) {
    for (int64_t rows : {1, 9}) {
      Sizes s = {5, 2, 192, 96, rows, 0, 0, -1, CodeTable::kE2M1};
      s.up_exponent = up, s.down_exponent = down;
      RunMlp(DType::kI4, s, 32, false);
    }
  }
}

// fp8 with a scale for each block, the last of an expert's columns cut off, experts whose rows are no whole blocks;
// whole pieces of columns and not.
TEST_P(Experts, MatchForFp8InBlocks) {
  for (int64_t rows : {1, 2, 5, 33, 301}) {
    for (auto [dim, columns, scale_rows] :
         {std::tuple(256, 128, 128), std::tuple(208, 144, 16), std::tuple(136, 88, 8)}) {
      Sizes s = {5, 2, dim, columns, rows};
      s.scale_rows = scale_rows;
      RunMlp(DType::kF8E4M3, s, 128, rows == 2, rows == 5 ? 0.5f : 0.0f);
      if (rows > 5) continue;
      s.first = 1, s.held = 2;
      RunMlp(DType::kF8E4M3, s, 64, false);
    }
  }
}

// Columns that are no whole blocks, outputs that are no whole tiles, columns so many that several warps share them, and
// more rows of an expert than are multiplied at once.
TEST_P(Experts, MatchForCodesInGroups) {
  for (int64_t rows : {1, 3, 20}) {
    for (const int group : {32, 64, 128}) RunMlp(DType::kI4, {6, 2, 3 * group, group, rows}, group, rows == 3);
    RunMlp(DType::kI4, {4, 2, 1280, 128, rows}, 128, false);
    RunMlp(DType::kI4, {3, 2, 160, 992, rows}, 32, true, 0.5f);
    RunMlp(DType::kI4, {5, 4, 64, 2880, rows}, 64, true);
  }
}

// Of experts that are dealt out over ranks: a run of them, or none, and rows of which no expert is here.
TEST_P(Experts, ThatAreElsewhereCountAsZero) {
  for (const auto& [first, held] : {std::pair(0, 3), {3, 2}, {6, 1}, {4, 0}}) {
    for (int64_t rows : {1, 2, 9, 70, 301}) {
      for (DType dtype : kWeightTypes) {
        if ((cuda() && dtype == DType::kF32) || (rows > 9 && dtype != DType::kBF16 && dtype != DType::kI4)) continue;
        RunMlp(dtype, {7, 3, 128, 64, rows, -1, first, held}, 32, rows % 2 == 0);
      }
    }
    RunMlp(DType::kBF16, {7, 3, 64, 32, 1, -1, first, held}, 0, true, 0.5f);
    RunMlp(DType::kI4, {7, 3, 128, 128, 1030, -1, first, held}, 32, true);  // sorted on the device, tiles of several
  }
  // Down products of one row that do not fit one launch, where it has them in tiles, and those that do.
  for (int64_t rows : {1, 3}) {
    RunMlp(DType::kI4, {6, 5, 64, 2880, rows, -1, 2, 2}, 64, true);
    RunMlp(DType::kI4, {70, 64, 64, 64, rows, -1, 33, 30}, 64, true);
    RunMlp(DType::kI4, {5, 2, 256, 128, rows, 128, 1, 2}, 32, false);
    RunMlp(DType::kI4, {5, 2, 96, 160, rows, 0, 1, 2, CodeTable::kE2M1}, 32, false);
  }
  // More rows than one product an expert is worth the trouble for, none of which chose any expert here.
  RunMlp(DType::kBF16, {3, 1, 64, 32, 300, -1, 1, 1}, 0, false);
  RunMlp(DType::kI4, {3, 1, 128, 128, 300, -1, 1, 1}, 32, false);
}

// Drafts rest on it: a row that is checked beside others has the bits that it has alone, whoever chose its experts too.
TEST_P(Experts, OfARowAreThoseItHasAlone) {
  const DType type = activation();
  struct Case {
    int64_t dim, columns;
    int group, block = -1;
    CodeTable table = CodeTable::kNone;
    DType dtype = DType::kI4;
    int experts = 6;
  };
  for (const Case& c :
       {Case{256, 128, 128}, Case{960, 192, 64}, Case{512, 256, 32, 256}, Case{960, 192, 32, 0, CodeTable::kE2M1},
        Case{512, 256, 32, 256, CodeTable::kIq4}, Case{512, 256, 16, 256, CodeTable::kNone, DType::kI8},
        // k of several warps' parts and of one; a part of a block at the end.
        Case{1984, 832, 32}, Case{96, 2080, 32}, Case{1984, 832, 32, 0, CodeTable::kE2M1},
        // Both products by whole tiles (group_tiles.cuh), with fewer experts.
        Case{2496, 2304, 64, -1, CodeTable::kNone, DType::kI4, 3},
        Case{2496, 2432, 32, 0, CodeTable::kE2M1, DType::kI4, 3}}) {
    SCOPED_TRACE(testing::Message() << Name(c.dtype) << " groups of " << c.group << " blocks of " << c.block
                                    << " table " << static_cast<int>(c.table));
    const int64_t dim = c.dim, columns = c.columns;
    std::mt19937 rng(5);
    const int experts = c.experts, chosen = 2;
    const auto make = [&](int64_t rows, int64_t cols) {
      if (c.table != CodeTable::kNone) return MakeTableWeight(device(), c.table, rows, cols, c.block, rng);
      return c.block >= 0 ? MakeGroupedWeight(device(), c.dtype, rows, cols, c.group, c.block, rng)
                          : MakeWeight(device(), c.dtype, rows, cols, c.group, true, rng);
    };
    const TestWeight up = make(experts * 2 * columns, dim), down = make(experts * dim, columns);
    const ExpertBank bank = {experts, up.weight, down.weight};
    constexpr int64_t kMost = 16;
    const HostRouting host = MakeRouting({experts, chosen, dim, columns, kMost}, experts - 1, rng);
    Buffer x = UploadAs(device(), type, Normal(rng, kMost * dim)), ids = Upload(device(), host.experts),
           shares = Upload(device(), host.weights), out = Allocate(device(), Bytes(type, kMost * dim));
    Arena scratch = Scratch(device(), ExpertMlpScratchBytes(device(), kMost, bank, chosen));
    const View all_x(x.data(), type, kMost, dim), all_out(out.data(), type, kMost, dim);
    auto run = [&](int64_t first, int64_t rows) {
      ExpertMlp(device(), all_out.Rows(first, rows), all_x.Rows(first, rows), bank,
                {ids.as<int32_t>() + first * chosen, shares.as<float>() + first * chosen, chosen}, scratch);
    };
    for (int64_t r = 0; r < kMost; ++r) run(r, 1);
    const std::vector<float> alone = DownloadAs(device(), type, out.data(), kMost * dim);
    for (const int64_t rows : {2, 3, 8, 11, 16}) {
      run(0, rows);
      const std::vector<float> got = DownloadAs(device(), type, out.data(), rows * dim);
      for (int64_t i = 0; i < rows * dim; ++i) ASSERT_EQ(got[i], alone[i]) << rows << " rows, row " << i / dim;
    }
  }
}

TEST_P(Experts, MatchForLongSteps) {
  for (DType dtype : {DType::kBF16, DType::kI4}) RunMlp(dtype, {5, 2, 64, 32, 301}, 32, dtype == DType::kI4);
}

// Slots of an expert that fill one block's tile, several and a part, none, and a few of many experts each; groups of
// every size and of two levels.
TEST_P(Experts, OfManyRowsMatchForCodesInGroups) {
  RunMlp(DType::kI4, {5, 2, 128, 128, 301}, 32, true);
  RunMlp(DType::kI4, {3, 2, 256, 128, 517}, 128, false);  // two experts have all rows
  RunMlp(DType::kI4, {2, 1, 128, 256, 513}, 64, true, 0.5f);
  RunMlp(DType::kI4, {60, 3, 128, 128, 257}, 32, false);
  RunMlp(DType::kI4, {4, 3, 256, 128, 290, 128}, 32, false);
  RunMlp(DType::kI4, {3, 1, 384, 384, 260}, 128, true);
}

// Which other rows chose an expert, and where in the step a row is, changes no bit of it.
TEST_P(Experts, OfManyRowsAreTheSameInAnyOrder) {
  const DType type = activation();
  std::mt19937 rng(8);
  constexpr int kExperts = 7, kChosen = 3;
  constexpr int64_t kRows = 900, kDim = 128, kColumns = 128;
  const TestWeight up = MakeWeight(device(), DType::kI4, kExperts * 2 * kColumns, kDim, 32, false, rng),
                   down = MakeWeight(device(), DType::kI4, kExperts * kDim, kColumns, 32, true, rng);
  const ExpertBank bank = {kExperts, up.weight, down.weight};
  const HostRouting host = MakeRouting({kExperts, kChosen, kDim, kColumns, kRows}, 0, rng);
  std::vector<float> x = Normal(rng, kRows * kDim);
  std::vector<int64_t> order(kRows);
  std::iota(order.begin(), order.end(), 0);
  auto run = [&] {
    std::vector<float> rows;
    HostRouting routing;
    for (int64_t r : order) {
      rows.insert(rows.end(), x.begin() + r * kDim, x.begin() + (r + 1) * kDim);
      routing.experts.insert(routing.experts.end(), host.experts.begin() + r * kChosen,
                             host.experts.begin() + (r + 1) * kChosen);
      routing.weights.insert(routing.weights.end(), host.weights.begin() + r * kChosen,
                             host.weights.begin() + (r + 1) * kChosen);
    }
    Buffer in = UploadAs(device(), type, rows), ids = Upload(device(), routing.experts),
           shares = Upload(device(), routing.weights), out = Allocate(device(), Bytes(type, kRows * kDim));
    Arena scratch = Scratch(device(), ExpertMlpScratchBytes(device(), kRows, bank, kChosen));
    ExpertMlp(device(), View(out.data(), type, kRows, kDim), View(in.data(), type, kRows, kDim), bank,
              {ids.as<int32_t>(), shares.as<float>(), kChosen}, scratch);
    return DownloadAs(device(), type, out.data(), kRows * kDim);
  };
  const std::vector<float> straight = run();
  std::shuffle(order.begin(), order.end(), rng);
  const std::vector<float> mixed = run();
  for (int64_t i = 0; i < kRows * kDim; ++i) {
    ASSERT_EQ(mixed[i], straight[order[i / kDim] * kDim + i % kDim]) << "row " << order[i / kDim];
  }
}

TEST_P(Experts, WithClampedGatesMatch) {
  for (int64_t rows : {1, 6, 270}) RunMlp(DType::kBF16, {4, 2, 64, 32, rows}, 0, true, 0.5f);
}

TEST(ClampedGates, KeepNansAndBounds) {
  EXPECT_TRUE(std::isnan(ClampedGate(NAN, 1, 7, kAlpha)) && std::isnan(ClampedGate(1, NAN, 7, kAlpha)));
  EXPECT_EQ(ClampedGate(100, 3, 7, kAlpha), ClampedGate(7, 3, 7, kAlpha));
  EXPECT_EQ(ClampedGate(1, -100, 7, kAlpha), ClampedGate(1, -7, 7, kAlpha));
  EXPECT_NE(ClampedGate(-100, 1, 7, 0.01f), ClampedGate(-7, 1, 7, 0.01f));  // a gate has no lower bound
}

TEST_P(Experts, MatchForUglySizes) {
  for (int64_t rows : {1, 9}) {
    RunMlp(DType::kBF16, {4, 2, 24, 19, rows}, 0, false);
    RunMlp(DType::kI8, {3, 1, 40, 7, rows}, 0, false);
    RunMlp(DType::kBF16, {2, 1, 8, 1, rows}, 0, false);
  }
}

// The rank that adds the biases may be one of them.
TEST_P(Experts, OfARankWithoutColumnsAddBiasesAlone) {
  for (const bool bias : {false, true}) {
    std::mt19937 rng(1);
    const TestWeight up = MakeWeight(device(), DType::kBF16, 0, 16, 0, false, rng);
    const TestWeight down = MakeWeight(device(), DType::kBF16, 3 * 16, 0, 0, bias, rng);
    const DType type = activation();
    Buffer x = UploadAs(device(), type, Normal(rng, 2 * 16)), out = Allocate(device(), Bytes(type, 2 * 16));
    const std::vector<int32_t> ids = {0, 2, 1, 0};
    const std::vector<float> shares = {0.25f, 0.75f, 0.5f, 2};
    Buffer experts = Upload(device(), ids), weights = Upload(device(), shares);
    const ExpertBank bank = {3, up.weight, down.weight};
    Arena scratch = Scratch(device(), ExpertMlpScratchBytes(device(), 2, bank, 2));
    ExpertMlp(device(), View(out.data(), type, 2, 16), View(x.data(), type, 2, 16), bank,
              {experts.as<int32_t>(), weights.as<float>(), 2}, scratch);
    const std::vector<float> got = DownloadAs(device(), type, out.data(), 2 * 16);
    for (int i = 0; i < 2 * 16; ++i) {
      const int r = i / 16, c = i % 16;
      const double expected = double{shares[2 * r]} * down.bias[ids[2 * r] * 16 + c] +
                              double{shares[2 * r + 1]} * down.bias[ids[2 * r + 1] * 16 + c];
      EXPECT_NEAR(got[i], expected, 4 * UnitRoundoff(type) * (1 + std::abs(expected))) << (bias ? "biased" : "");
    }
  }
}

TEST_P(Experts, GateOfTheSharedOneIsASigmoid) {
  const DType type = activation();
  std::mt19937 rng(2);
  constexpr int64_t kRows = 5, kDim = 77;
  std::vector<float> base = Normal(rng, kRows * kDim), add = Normal(rng, kRows * kDim), gates = Normal(rng, kRows * 3);
  for (float& v : base) v = Rounded(type, v);
  for (float& v : add) v = Rounded(type, v);
  Buffer out = UploadAs(device(), type, base), from = UploadAs(device(), type, add), in = Upload(device(), gates);
  AddGated(device(), View(out.data(), type, kRows, kDim), View(from.data(), type, kRows, kDim),
           View(in.data(), DType::kF32, kRows, 3).Cols(2, 1));
  const std::vector<float> got = DownloadAs(device(), type, out.data(), kRows * kDim);
  for (int64_t i = 0; i < kRows * kDim; ++i) {
    const double exact = base[i] + add[i] / (1 + std::exp(-double{gates[i / kDim * 3 + 2]}));
    EXPECT_NEAR(got[i], exact, 4 * UnitRoundoff(type) * (1 + std::abs(exact)));
  }
}

}  // namespace
}  // namespace duo
