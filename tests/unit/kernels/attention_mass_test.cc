// The mass of pages and the scores of keys against f64 over the decoded keys, in every format, whole and split, with
// and without a window; read from K alone, and left by the attention of a step's only row, whose output is the same to
// the bit.
#include "kernels/attention_mass.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>

#include "attention_fixture.h"
#include "devices.h"
#include "kernels/attention_plain.h"
#include "kernels/random_fill.h"

namespace duo {
namespace {

struct Pages {
  PagedKv kv;
  Buffer bytes, tables;
};

// Of one sequence, its page ids in reverse; table 1 is its, table 0 names pages that are not there.
Pages MakePages(Device& device, KvFormat format, int d, int64_t pages, int slots, int first_slot, int num_slots) {
  Pages p;
  p.kv.page = {format, d};
  p.kv.num_heads = 2;
  p.kv.slots = slots;
  p.kv.split = slots > 1;
  p.kv.first_slot = first_slot;
  p.kv.num_slots = num_slots;
  const int64_t ids = (pages + slots - 1) / slots;
  p.kv.head_stride = ids * p.kv.id_stride();
  p.kv.table_stride = ids;
  p.bytes = Allocate(device, p.kv.num_heads * p.kv.head_stride);
  p.kv.base = p.bytes.as<uint8_t>();
  std::vector<int32_t> table(2 * ids, 1 << 20);
  std::iota(table.rbegin(), table.rbegin() + ids, 0);
  p.tables = Upload(device, table);
  p.kv.tables = p.tables.as<int32_t>();
  FillPages(device, p.kv, 0, ids, 7);
  return p;
}

class AttentionMass : public DeviceTest {
 protected:
  // Both heads of the pages in one call. The reference reads the device's memory, so on CUDA from a copy.
  void Check(int d, int group, int64_t position, const Pages& pages) {
    const PagedKv& kv = pages.kv;
    const int64_t count = position / kPageTokens + 2;  // the last one lies behind the row
    std::mt19937 rng(static_cast<unsigned>(d + position));
    std::normal_distribution<float> normal;
    std::vector<float> q(size_t{2} * group * d);
    for (float& x : q) x = Rounded(normal(rng));
    Buffer device_q = UploadAs(device(), activation(), q);
    std::vector<int32_t> wanted(count);
    std::iota(wanted.rbegin(), wanted.rend(), 0);
    Buffer device_wanted = Upload(device(), wanted);
    const int64_t masses = 2 * group * count;
    Buffer mass = Allocate(device(), sizeof(float) * masses),
           scores = Allocate(device(), sizeof(float) * masses * kPageTokens);
    std::vector<MassHead> heads;
    for (const int head : {1, 0}) {
      const size_t at = Bytes(activation(), static_cast<int64_t>(heads.size()) * group * d);
      heads.push_back({{device_q.as<uint8_t>() + at, group, head, 1, position}, kv});
    }
    PageMass(device(), mass.as<float>(), heads, count);
    KeyScores(device(), scores.as<float>(), heads, device_wanted.as<int32_t>(), static_cast<int>(count));
    const auto got_mass = Download<float>(device(), mass.data(), masses),
               got_scores = Download<float>(device(), scores.data(), masses * kPageTokens);

    const std::vector<uint8_t> host_bytes = Download<uint8_t>(device(), pages.bytes.data(), pages.bytes.size());
    const std::vector<int32_t> host_tables =
        Download<int32_t>(device(), pages.tables.data(), pages.tables.size() / sizeof(int32_t));
    PagedKv host = kv;
    host.base = const_cast<uint8_t*>(host_bytes.data());
    host.tables = host_tables.data();
    for (int h = 0; h < 2; ++h) {
      for (int g = 0; g < group; ++g) {
        const int64_t row = h * group + g;
        for (int64_t p = 0; p < count; ++p) {
          CheckPage(host, heads[h].row, p, &q[row * d], got_mass[row * count + p],
                    &got_scores[(row * count + count - 1 - p) * kPageTokens]);
        }
      }
    }
  }
  // Sums of d products in f32, in any order: d roundings of the sum of magnitudes at most.
  void CheckPage(const PagedKv& kv, const MassRow& row, int64_t p, const float* q, float mass, const float* scores) {
    const int d = kv.page.head_dim;
    double sum = 0, allowed = 0;
    for (int t = 0; t < kPageTokens; ++t) {
      const int64_t j = p * kPageTokens + t;
      const bool sees = kv.holds(p) && j <= row.position && (kv.window == 0 || row.position - j < kv.window);
      if (!sees) {
        ASSERT_EQ(scores[t], -INFINITY) << "key " << j;
        continue;
      }
      const uint8_t* page = kv.page_at(row.head, row.table, p);
      double score = 0, magnitude = 0;
      for (int c = 0; c < d; ++c) {
        const double product = double{q[c]} * PlainValue(kv.page, page, false, t, c) / std::sqrt(double(d));
        score += product;
        magnitude += std::abs(product);
      }
      const double error = (d + 3) * 0x1p-24 * magnitude;
      ASSERT_NEAR(scores[t], score, error) << "key " << j;
      sum += std::exp(score);
      allowed = std::max(allowed, cuda() ? TensorCoreError(kv.page, page, t, q, magnitude) : error);
    }
    if (sum == 0) {
      ASSERT_EQ(mass, -INFINITY) << "page " << p;
    } else {
      // The sum's own roundings, and those of exp and log.
      ASSERT_NEAR(mass, std::log(sum), allowed + (kPageTokens + 8) * 0x1p-22) << Name(kv.page.format) << " page " << p;
    }
  }
  // Tensor cores add up products with whole codes around another zero than the values have, and cut sums off instead of
  // rounding them; what that is too much is subtracted afterwards.
  double TensorCoreError(const PageLayout& layout, const uint8_t* page, int t, const float* q, double magnitude) const {
    if (layout.format == KvFormat::kInt4 || layout.format == KvFormat::kInt8) {
      const auto* stored = reinterpret_cast<const f16*>(page + layout.k_params(t));
      const double scale = std::abs(ToFloat(stored[0])), least = std::abs(ToFloat(stored[1]));
      magnitude = 0;
      for (int c = 0; c < layout.head_dim; ++c) magnitude += std::abs(q[c]) * (scale * (143 + 128) + least);
      magnitude /= std::sqrt(double(layout.head_dim));
    }
    return (layout.head_dim + 16) * 0x1p-23 * magnitude;
  }
  float Rounded(float x) const { return cuda() ? ToFloat(ToBf16(x)) : x; }
};
INSTANTIATE_ON_DEVICES(AttentionMass);

TEST_P(AttentionMass, IsThatOfTheKeysOfEachPage) {
  for (KvFormat format : kKvFormats) {
    if (cuda() && format == KvFormat::kF32) continue;
    for (int d : {64, 128}) {
      for (int64_t position : {0, 127, 128, 1000}) {
        const Pages pages = MakePages(device(), format, d, position / kPageTokens + 2, 1, 0, 1);
        Check(d, 3, position, pages);
      }
    }
  }
}

TEST_P(AttentionMass, IsThatOfTheSlotsHeldHere) {
  for (KvFormat format : {KvFormat::kBF16, KvFormat::kInt4}) {
    const Pages pages = MakePages(device(), format, 64, 9, 4, 1, 2);
    Check(64, 1, 900, pages);
  }
}

TEST_P(AttentionMass, LeavesOutWhatTheWindowHides) {
  Pages pages = MakePages(device(), KvFormat::kInt8, 64, 9, 1, 0, 1);
  pages.kv.window = 300;
  Check(64, 2, 777, pages);
}

TEST_P(AttentionMass, TakesHeadsOfAnySizeAndManyQueryHeads) {
  if (cuda()) GTEST_SKIP() << "the CPU's alone";
  const Pages pages = MakePages(device(), KvFormat::kBF16, 40, 3, 1, 0, 1);
  Check(40, 17, 300, pages);
}

// Log masses of so many rows, and what f64 says of them. Some are far below the others, some nothing at all.
TEST_P(AttentionMass, SumsAndSharesAreThoseOfPlainSums) {
  for (const auto& [rows, count, parts] : {std::tuple(1, 1, 1), {3, 700, 4}, {40, 2500, 1}, {8, 3000, 8}}) {
    std::mt19937 rng(static_cast<unsigned>(count));
    std::normal_distribution<float> normal(3, 8);
    std::vector<float> logs(int64_t{rows} * count * parts), weights(rows);
    for (float& x : logs) x = rng() % 10 == 0 ? -INFINITY : normal(rng);
    for (float& x : weights) x = rng() % 4 == 0 ? 0 : 0.01f * static_cast<float>(rng() % 100);
    if (rows > 2) std::fill_n(logs.begin() + int64_t{count} * parts, int64_t{count} * parts, -INFINITY);
    const LogMasses of = {nullptr, rows, count, parts};
    Buffer device_logs = Upload(device(), logs), device_weights = Upload(device(), weights),
           lse = Allocate(device(), sizeof(float) * rows), shares = Allocate(device(), sizeof(float) * count);
    LogMasses on_device = of;
    on_device.logs = device_logs.as<float>();
    LogSums(device(), lse.as<float>(), on_device);
    SumShares(device(), shares.as<float>(), on_device, lse.as<float>(), device_weights.as<float>());
    const auto got_lse = Download<float>(device(), lse.data(), rows),
               got = Download<float>(device(), shares.data(), count);
    std::vector<double> expected(count);
    for (int r = 0; r < rows; ++r) {
      double sum = 0;
      const float* row = &logs[int64_t{r} * count * parts];
      for (int64_t i = 0; i < int64_t{count} * parts; ++i) sum += std::exp(double{row[i]});
      if (sum == 0) {
        EXPECT_EQ(got_lse[r], -INFINITY);
        continue;
      }
      EXPECT_NEAR(got_lse[r], std::log(sum), 1e-5) << "row " << r;
      for (int64_t i = 0; i < int64_t{count} * parts; ++i) {
        expected[i / parts] += weights[r] * std::exp(double{row[i]}) / sum;
      }
    }
    for (int i = 0; i < count; ++i) ASSERT_NEAR(got[i], expected[i], 3e-5 * expected[i] + 1e-10) << "entry " << i;
    // Of some of the entries alone.
    on_device.logs += count / 3 * parts;
    on_device.count = count / 2;
    on_device.stride = count;
    if (on_device.count == 0) continue;
    LogSums(device(), lse.as<float>(), on_device);
    const auto some = Download<float>(device(), lse.data(), rows);
    for (int r = 0; r < rows; ++r) {
      double sum = 0;
      const float* row = &logs[(int64_t{r} * count + count / 3) * parts];
      for (int64_t i = 0; i < int64_t{count} / 2 * parts; ++i) sum += std::exp(double{row[i]});
      if (sum == 0) {
        EXPECT_EQ(some[r], -INFINITY) << "row " << r;
      } else {
        EXPECT_NEAR(some[r], std::log(sum), 1e-5) << "row " << r;
      }
    }
  }
}

// A step's only row, and what its attention leaves on the way.
class LeavingState : public AttentionState {
 public:
  using AttentionState::AttentionState;
  void Attend() { AttendPaged(false); }
  // [heads asked][group][pages][parts], over poisoned memory.
  std::vector<float> AttendWithMass(uint64_t heads, int asked, int parts) {
    MassOut mass = {nullptr, Pages(), heads};
    const int64_t count = int64_t{asked} * c_.group * mass.pages * parts;
    const Buffer logs = Allocate(device_, sizeof(float) * count);
    mass.logs = logs.as<float>();
    device_.Fill(out_.data(), 0xff, out_.size());
    const SeqBatch batch = Batch();
    Arena scratch = Scratch(device_, DecodeScratchBytes(device_, 1, c_.group, pages_, batch.max_tokens));
    const View qkv(qkv_.data(), type_, 1, shape_.qkv_cols()), out(out_.data(), type_, 1, shape_.q_cols());
    AttendPagesWithMass(device_, {out, lse_.as<float>()}, {qkv, shape_, batch}, pages_, mass, scratch);
    return Download<float>(device_, logs.data(), count);
  }
  int64_t Pages() const { return spans_[0].history / kPageTokens + 1; }
  // In f64: log masses of a query head's pages.
  std::vector<double> LogMassesOf(int q_head) {
    const float* q = &host_qkv_[q_head * c_.head_dim];
    std::vector<double> sums(Pages());
    for (int64_t j = 0; j <= spans_[0].history; ++j) {
      if (!Holds(j) || (c_.window > 0 && spans_[0].history - j >= c_.window)) continue;
      double score = 0;
      for (int k = 0; k < c_.head_dim; ++k) score += double{q[k]} * Key(0, q_head / c_.group, j)[k];
      sums[j / kPageTokens] += std::exp(score / std::sqrt(double(c_.head_dim)));
    }
    for (double& sum : sums) sum = std::log(sum);
    return sums;
  }
};

class MassBeside : public DeviceTest {
 protected:
  void Check(AttentionCase c, uint64_t heads) {
    if (cuda()) c.ring_format = KvFormat::kBF16;
    LeavingState state(device(), c);
    const int parts = MassParts(device(), c.group, state.pages());
    ASSERT_GT(parts, 0);
    std::vector<int> asked;
    for (int h = 0; h < c.paged_heads; ++h) {
      if (heads >> h & 1) asked.push_back(h);
    }
    state.StoreStep();
    state.Attend();
    const std::vector<float> out = state.Out(), lse = state.Lse();
    const std::vector<float> logs = state.AttendWithMass(heads, static_cast<int>(asked.size()), parts);
    EXPECT_EQ(state.Lse(), lse) << "asking changes the sums";
    EXPECT_TRUE(SameBits(state.Out(), out)) << "asking changes the answer";
    for (size_t i = 0; i < asked.size(); ++i) {
      for (int g = 0; g < c.group; ++g) {
        const std::vector<double> expected = state.LogMassesOf(asked[i] * c.group + g);
        for (int64_t p = 0; p < state.Pages(); ++p) {
          double sum = 0;
          for (int part = 0; part < parts; ++part) {
            sum += std::exp(double{logs[((i * c.group + g) * state.Pages() + p) * parts + part]});
          }
          if (expected[p] == -INFINITY) {
            ASSERT_EQ(sum, 0) << "page " << p;
          } else {
            // Whole codes are added up around another zero: up to 271 steps of a code for each channel.
            ASSERT_NEAR(std::log(sum), expected[p], 2e-3)
                << Name(c.format) << " d " << c.head_dim << " head " << asked[i] << "." << g << " page " << p;
          }
        }
      }
    }
  }
  static bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), sizeof(float) * a.size()) == 0;
  }
};
INSTANTIATE_ON_DEVICES(MassBeside);

TEST_P(MassBeside, IsThatOfTheRowWhoseOutputIsTheSame) {
  for (const KvFormat format : kKvFormats) {
    if (cuda() && format == KvFormat::kF32) continue;
    for (const int d : {64, 128}) {
      for (const int history : {0, 127, 128, 161, 5000}) {
        AttentionCase c;
        c.format = format;
        c.head_dim = d;
        c.group = d == 64 ? 3 : 8;
        c.paged_heads = 3;
        c.sequences = {{history, 1}};
        c.seed = static_cast<unsigned>(history + d);
        Check(c, history == 127 ? 0b111 : 0b101);
      }
    }
  }
}

TEST_P(MassBeside, IsOfWhatIsHeldHereAndSeenAlone) {
  AttentionCase c;
  c.format = cuda() ? KvFormat::kInt8 : KvFormat::kF32;
  c.paged_heads = 2;
  c.sequences = {{2000, 1}};
  c.slots = 4;
  c.first_slot = 1;
  c.num_slots = 2;
  Check(c, 0b10);
  c.slots = c.num_slots = 1;
  c.first_slot = 0;
  c.window = 300;
  Check(c, 0b11);
}

TEST_P(MassBeside, IsLeftToReadingAgainWhereAGroupIsWide) {
  if (!cuda()) GTEST_SKIP() << "the GPU's alone";
  AttentionCase c;
  c.format = c.ring_format = KvFormat::kBF16;
  c.group = 9;
  c.sequences = {{100, 1}};
  const LeavingState state(device(), c);
  EXPECT_EQ(MassParts(device(), c.group, state.pages()), 0);
}

}  // namespace
}  // namespace duo
