// Dual chunk attention: the positions that the publication gives, attention to the keys of one kind against the naive
// reference, and what is rotated and merged.
#include "kernels/dual_chunk.h"

#include <cmath>
#include <numbers>

#include "attention_fixture.h"
#include "kernels/attention.h"

namespace duo {
namespace {

constexpr ChunkKind kKinds[] = {ChunkKind::kOwn, ChunkKind::kPrevious, ChunkKind::kEarlier};

TEST(DualChunk, PositionsAreThePublishedOnes) {
  // Of chunks of 100 with 40 beside them: what is 60 long, and distances up to 100.
  const DualChunk chunks{60, 100, 0};
  for (const int64_t p : {0, 1, 59, 60, 119, 120, 150, 179, 180, 1000003}) {
    EXPECT_EQ(chunks.KeyPosition(p), p % 60);
    EXPECT_EQ(chunks.QueryPosition(ChunkKind::kOwn, p), p % 60);
    EXPECT_EQ(chunks.QueryPosition(ChunkKind::kPrevious, p), std::min<int64_t>(p % 60 + 60, 100));
    EXPECT_EQ(chunks.QueryPosition(ChunkKind::kEarlier, p), 100);
  }
  // A chunk shorter than what is beside it: no distance is cut.
  EXPECT_EQ((DualChunk{40, 100, 0}.QueryPosition(ChunkKind::kPrevious, 39)), 79);
  EXPECT_EQ((DualChunk{40, 100, 0}.QueryPosition(ChunkKind::kEarlier, 500)), 79);
}

TEST(DualChunk, DistancesAreTrueUpToTheChunkSize) {
  const DualChunk chunks{60, 100, 0};
  for (int64_t p = 0; p < 100; ++p) {
    for (int64_t j = 0; j <= p; ++j) {
      const ChunkKind kind = p / 60 == j / 60 ? ChunkKind::kOwn : ChunkKind::kPrevious;
      EXPECT_EQ(chunks.QueryPosition(kind, p) - chunks.KeyPosition(j), p - j);
    }
  }
}

TEST(DualChunk, EveryKeyIsOfOneKindAndNoneLiesBehind) {
  const DualChunk chunks{7, 9, 0};
  for (int64_t p = 0; p < 40; ++p) {
    std::vector<int> seen(p + 1);
    for (const ChunkKind kind : kKinds) {
      const KeyRange keys = chunks.Keys(kind, p);
      for (int64_t j = keys.begin; j < keys.end; ++j) {
        ASSERT_LE(j, p);
        ++seen[j];
        EXPECT_EQ(std::min<int64_t>(p / 7 - j / 7, 2), static_cast<int64_t>(kind));
      }
    }
    for (const int times : seen) EXPECT_EQ(times, 1);
  }
}

TEST(DualChunk, ScoresAreScaledByTheRowsOwnLength) {
  const DualChunk chunks{60, 100, 200};
  EXPECT_EQ(chunks.Scale(0), 1);
  EXPECT_EQ(chunks.Scale(199), 1);
  EXPECT_NEAR(chunks.Scale(200), std::pow(1 + 0.1 * std::log(201.0 / 200), 2), 1e-15);
  EXPECT_NEAR(chunks.Scale(1999), std::pow(1 + 0.1 * std::numbers::ln10, 2), 1e-12);
  EXPECT_EQ((DualChunk{60, 100, 0}.Scale(1 << 20)), 1);
}

class DualChunkOps : public DeviceTest {
 protected:
  // Every kind, for chunks that are no multiple of a page, a tile or a unit of a kernel.
  template <typename Run>
  void ForParts(AttentionCase c, const Run& run) {
    if (cuda()) c.format = c.format == KvFormat::kF32 ? KvFormat::kBF16 : c.format;
    if (cuda()) c.ring_format = KvFormat::kBF16;
    for (const int length : {57, 200, 331}) {
      for (const ChunkKind kind : kKinds) {
        SCOPED_TRACE(testing::Message() << Name(c.format) << " chunks of " << length << ", kind "
                                        << static_cast<int>(kind));
        c.part = {{length, length + 20, 0}, kind, View()};
        run(c);
      }
    }
  }
  void Decode(const AttentionCase& c) {
    AttentionState paged(device(), c);
    paged.StoreStep();
    paged.AttendPaged(false);
    paged.ExpectPagedResult(false);
    AttentionState ringed(device(), c);
    ringed.StoreStep();
    ringed.AttendRinged();
    ringed.ExpectRingedResult();
  }
  void Prefill(const AttentionCase& c, bool own_square = true) {
    AttentionState paged(device(), c);
    paged.StoreStep();
    paged.AttendPaged(true, own_square);
    paged.ExpectPagedResult(true, own_square);
    AttentionState ringed(device(), c);
    ringed.StoreStep();
    ringed.AttendRinged();
    ringed.ExpectRingedResult();
  }
};
INSTANTIATE_ON_DEVICES(DualChunkOps);

TEST_P(DualChunkOps, FewRowsOfManySequences) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4}) {
    AttentionCase c;
    c.format = format;
    c.ring_format = RingFormat(format);
    c.sequences = {{0}, {1}, {56}, {57}, {199, 3}, {400, 2}, {330, 5}, {1000}};
    ForParts(c, [&](const AttentionCase& one) { Decode(one); });
  }
}

TEST_P(DualChunkOps, RowsThatLieAcrossTheBoundsOfChunks) {
  AttentionCase c;
  c.group = 4;
  c.head_dim = 128;
  c.sequences = {{180, 64}, {0, 64}, {640, 33}, {100, 17}};
  ForParts(c, [&](const AttentionCase& one) { Decode(one); });
}

TEST_P(DualChunkOps, HoldersOfSplitHeads) {
  for (const int first : {0, 1, 2}) {
    AttentionCase c;
    c.slots = 3;
    c.first_slot = first;
    c.sequences = {{900, 2}, {130, 1}, {20, 1}, {700, 20}};
    ForParts(c, [&](const AttentionCase& one) { Decode(one); });
    c.sequences = {{700, 130}};
    ForParts(c, [&](const AttentionCase& one) { Prefill(one, first == 1); });
  }
}

TEST_P(DualChunkOps, LongAppends) {
  for (const KvFormat format : {KvFormat::kBF16, KvFormat::kInt4}) {
    AttentionCase c;
    c.format = format;
    c.ring_format = KvFormat::kBF16;
    for (const SequenceCase& sequence : {SequenceCase{0, 300}, SequenceCase{500, 257}, SequenceCase{128, 65}}) {
      c.sequences = {sequence};
      ForParts(c, [&](const AttentionCase& one) { Prefill(one); });
    }
  }
}

TEST_P(DualChunkOps, SequencesOfOneBeginning) {
  AttentionCase c;
  c.shared = 768;
  c.sequences = {{768, 1}, {900, 2}, {768, 1}, {1000, 5}};
  ForParts(c, [&](const AttentionCase& one) { Decode(one); });
}

TEST_P(DualChunkOps, FewRowsHaveTheSameBitsAloneAndInCompany) {
  if (cuda()) GTEST_SKIP() << "CPU only";
  AttentionCase c;
  c.shared = 768;
  c.sequences = {{768, 1}, {900, 3}, {770, 1}, {1000, 4}};
  ForParts(c, [&](const AttentionCase& one) {
    AttentionState state(device(), one);
    state.StoreStep();
    state.AttendPaged(false);
    const std::vector<float> together = state.Out();
    for (size_t s = 0; s < one.sequences.size(); ++s) {
      state.AttendPagedAlone(static_cast<int>(s));
      const std::vector<float> alone = state.Out();
      for (size_t i = 0; i < alone.size(); ++i) {
        if (std::isnan(together[i])) continue;  // a column of the ringed head
        ASSERT_EQ(alone[i], together[i]) << "sequence " << s << " element " << i;
      }
    }
  });
}

TEST_P(DualChunkOps, RotationsAreThoseOfTheirPositions) {
  const HeadShape shape = {64, 3, 2, 1};
  const int rows = 9, d = shape.head_dim, q_cols = shape.q_cols();
  const DualChunk chunks{57, 83, 71};
  std::mt19937 rng(5);
  std::vector<double> frequencies(d / 2);
  for (int i = 0; i < d / 2; ++i) frequencies[i] = std::pow(10000.0, -2.0 * i / d);
  const std::vector<int32_t> positions = {0, 56, 57, 70, 71, 113, 114, 500, 100003};
  std::vector<float> qkv = Normal(rng, size_t(rows) * shape.qkv_cols());
  for (float& x : qkv) x = RoundTo(activation(), x);
  const std::vector<float> norm = Normal(rng, d);
  const Buffer device_positions = Upload(device(), positions), device_frequencies = Upload(device(), frequencies),
               weight = Upload(device(), norm);
  const QkNorms norms = {weight.as<float>(), nullptr, 1e-6f};
  const Buffer angles = Allocate(device(), sizeof(float) * rows * 4 * d);
  const View table(angles.data(), DType::kF32, rows, 4 * d);
  ChunkAngles(device(), table, device_positions.as<int32_t>(), device_frequencies.as<double>(), 1.25, chunks);
  const Buffer got_qkv = UploadAs(device(), activation(), qkv),
               previous = Allocate(device(), Bytes(activation(), int64_t{rows} * q_cols)),
               earlier = Allocate(device(), Bytes(activation(), int64_t{rows} * q_cols));
  const auto queries = [&](const Buffer& b) { return View(b.data(), activation(), rows, q_cols); };
  RotateQkByChunks(device(), View(got_qkv.data(), activation(), rows, shape.qkv_cols()),
                   {queries(previous), queries(earlier)}, shape, table, norms);
  // Each by RotateQk from angles of its own positions; scores' scale is put into q.
  for (int which = 0; which < 4; ++which) {
    std::vector<int32_t> turned;
    for (const int32_t p : positions) {
      turned.push_back(static_cast<int32_t>(which == 0 ? chunks.KeyPosition(p)
                                                       : chunks.QueryPosition(static_cast<ChunkKind>(which - 1), p)));
    }
    const Buffer one = Upload(device(), turned), plain = Allocate(device(), sizeof(float) * rows * d),
                 expected_qkv = UploadAs(device(), activation(), qkv);
    const View plain_table(plain.data(), DType::kF32, rows, d);
    RopeAngles(device(), plain_table, one.as<int32_t>(), device_frequencies.as<double>(), 1.25);
    RotateQk(device(), View(expected_qkv.data(), activation(), rows, shape.qkv_cols()), shape, plain_table, norms);
    const std::vector<float> expected = DownloadAs(device(), activation(), expected_qkv.data(), qkv.size());
    const std::vector<float> own = DownloadAs(device(), activation(), got_qkv.data(), qkv.size());
    const std::vector<float> other =
        DownloadAs(device(), activation(), (which == 3 ? earlier : previous).data(), size_t(rows) * q_cols);
    for (int r = 0; r < rows; ++r) {
      const double scale = which == 0 ? 1 : chunks.Scale(positions[r]);
      const int begin = which == 0 ? q_cols : 0, end = which == 0 ? shape.qkv_cols() : q_cols;
      for (int i = begin; i < end; ++i) {
        const double want = expected[size_t(r) * shape.qkv_cols() + i] * scale;
        const float got = which < 2 ? own[size_t(r) * shape.qkv_cols() + i] : other[size_t(r) * q_cols + i];
        if (scale == 1) {
          ASSERT_EQ(got, static_cast<float>(want)) << "which " << which << " row " << r << " element " << i;
        } else {
          ASSERT_NEAR(got, want, 32 * UnitRoundoff(activation()) * (1 + std::abs(want))) << which << " row " << r;
        }
      }
    }
  }
}

TEST_P(DualChunkOps, PartialsMergeAndAnEmptyOneChangesNoBit) {
  const int rows = 5, heads = 3, d = 64;
  std::mt19937 rng(7);
  std::vector<float> a = Normal(rng, size_t{rows} * heads * d), b = Normal(rng, a.size());
  std::vector<float> lse_a = Normal(rng, size_t{rows} * heads, 3), lse_b = Normal(rng, lse_a.size(), 3);
  for (float& x : a) x = RoundTo(activation(), x);
  for (float& x : b) x = RoundTo(activation(), x);
  // Row 0: nothing in b. Row 1: nothing in a. Row 2: nothing in either.
  for (int h = 0; h < heads; ++h) {
    for (const int r : {0, 2}) lse_b[h * rows + r] = -INFINITY;
    for (const int r : {1, 2}) lse_a[h * rows + r] = -INFINITY;
    for (int i = 0; i < d; ++i) {
      for (const int r : {0, 2}) b[(size_t(r) * heads + h) * d + i] = 0;
      for (const int r : {1, 2}) a[(size_t(r) * heads + h) * d + i] = 0;
    }
  }
  const Buffer to = UploadAs(device(), activation(), a), part = UploadAs(device(), activation(), b),
               to_lse = Upload(device(), lse_a), part_lse = Upload(device(), lse_b);
  MergePartial(device(), {View(to.data(), activation(), rows, heads * d), to_lse.as<float>()},
               {View(part.data(), activation(), rows, heads * d), part_lse.as<float>()}, heads);
  const std::vector<float> got = DownloadAs(device(), activation(), to.data(), a.size());
  const std::vector<float> lse = Download<float>(device(), to_lse.data(), lse_a.size());
  for (int r = 0; r < rows; ++r) {
    for (int h = 0; h < heads; ++h) {
      const float x = lse_a[h * rows + r], y = lse_b[h * rows + r];
      const double total = std::log(std::exp(double{x}) + std::exp(double{y}));
      if (r < 3) {
        EXPECT_EQ(lse[h * rows + r], std::max(x, y));
      } else {
        EXPECT_NEAR(lse[h * rows + r], total, 1e-5);
      }
      for (int i = 0; i < d; ++i) {
        const size_t at = (size_t(r) * heads + h) * d + i;
        if (r < 3) {
          ASSERT_EQ(got[at], r == 0 ? a[at] : b[at]) << "row " << r;
        } else {
          const double want = std::exp(x - total) * a[at] + std::exp(y - total) * b[at];
          ASSERT_NEAR(got[at], want, 4 * UnitRoundoff(activation()) * (1 + std::abs(want))) << "row " << r;
        }
      }
    }
  }
}

}  // namespace
}  // namespace duo
