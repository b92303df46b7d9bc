#include "kernels/attention.h"

#include "attention_fixture.h"

namespace duo {
namespace {

class Attention : public DeviceTest {
 protected:
  // Formats that this device stores.
  std::vector<KvFormat> Formats() const {
    std::vector<KvFormat> all = {KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4};
    if (!cuda()) all.push_back(KvFormat::kF32);
    return all;
  }
  AttentionCase Case() const {
    AttentionCase c;
    if (cuda()) c.format = c.ring_format = KvFormat::kBF16;
    return c;
  }
  void RunDecode(const AttentionCase& c) {
    SCOPED_TRACE(testing::Message() << Name(c.format) << " head_dim " << c.head_dim << " group " << c.group
                                    << " window " << c.window << " slots " << c.first_slot << "+" << c.num_slots
                                    << " of " << c.slots);
    if (!CheckAttention(device(), c.head_dim, c.group, c.format).ok()) return;
    AttentionState paged(device(), c);
    paged.StoreStep();
    paged.ExpectPagesStored();
    paged.ExpectStepDecoded();
    paged.AttendPaged(false);
    paged.ExpectPagedResult(false);
    AttentionState ringed(device(), c);
    ringed.StoreStep();
    ringed.AttendRinged();
    ringed.ExpectRingedResult();
    ringed.ExpectRingsStored();
  }
  void RunPrefill(const AttentionCase& c, bool own_square = true) {
    SCOPED_TRACE(testing::Message() << Name(c.format) << " head_dim " << c.head_dim << " group " << c.group
                                    << " window " << c.window << " history " << c.sequences[0].history << " rows "
                                    << c.sequences[0].rows);
    if (!CheckAttention(device(), c.head_dim, c.group, c.format).ok()) return;
    AttentionState paged(device(), c);
    paged.StoreStep();
    paged.AttendPaged(true, own_square);
    paged.ExpectPagedResult(true, own_square);
    AttentionState ringed(device(), c);
    ringed.StoreStep();
    ringed.AttendRinged();
    ringed.ExpectRingedResult();
    ringed.ExpectRingsStored();
  }
};
INSTANTIATE_ON_DEVICES(Attention);

TEST_P(Attention, DecodeMatchesTheReferenceForEveryFormatAndHistory) {
  for (KvFormat format : Formats()) {
    AttentionCase c = Case();
    c.format = format;
    c.sequences = {{0}, {1}, {127}, {128}, {129}, {255}, {1000}};
    RunDecode(c);
  }
}

TEST_P(Attention, DecodeMatchesTheReferenceForEveryGroupAndHeadSize) {
  for (int group : {1, 2, 3, 4, 8}) {
    for (int d : {2, 64, 80, 128, 256}) {
      AttentionCase c = Case();
      c.group = group;
      c.head_dim = d;
      c.sequences = {{257, 2}, {30, 1}};
      c.seed = group * 1000 + d;
      RunDecode(c);
    }
  }
}

TEST_P(Attention, ShortAppendsOfMixedLengthsMatch) {
  AttentionCase c = Case();
  c.sequences = {{100, 64}, {0, 7}, {1000, 1}, {255, 33}, {0, 64, 0}};
  RunDecode(c);
  c.format = KvFormat::kInt4;
  c.group = 8;
  RunDecode(c);
}

TEST_P(Attention, ForksOfOneDocumentMatch) {
  for (KvFormat format : Formats()) {
    for (int slots : {1, 3}) {
      AttentionCase c = Case();
      c.format = format;
      c.slots = slots;
      c.first_slot = slots / 2;
      c.shared = 2304;  // between two cuts
      c.sequences = {{2304, 1}, {2600, 2}, {2304, 1}, {3000, 5}};
      RunDecode(c);
      for (int i = 0; i < 20; ++i) c.sequences.push_back({2304 + 20 * i, 1});  // more than sixteen rows
      RunDecode(c);
    }
  }
}

// CUDA has a test of its own: there a row by itself is another kernel's.
TEST_P(Attention, UpToSixteenRowsHaveTheSameBitsAloneSharedAndInCompany) {
  if (cuda()) GTEST_SKIP() << "CPU only";
  for (KvFormat format : Formats()) {
    for (int head_dim : {64, 80}) {
      AttentionCase c = Case();
      c.format = format;
      c.head_dim = head_dim;
      c.group = 4;
      c.shared = 1536;
      c.sequences = {{1536, 1}, {1700, 3}, {1536 + 384, 1}, {3100, 4}, {1537, 1}};
      SCOPED_TRACE(testing::Message() << Name(format) << " head_dim " << head_dim);
      AttentionState state(device(), c);
      state.StoreStep();
      state.AttendPaged(false);
      state.ExpectPagedResult(false);
      const std::vector<float> together = state.Out();
      for (size_t s = 0; s < c.sequences.size(); ++s) {
        state.AttendPagedAlone(static_cast<int>(s));
        const std::vector<float> alone = state.Out();
        for (size_t i = 0; i < alone.size(); ++i) {
          if (std::isnan(together[i])) continue;  // a column of the ringed head
          ASSERT_EQ(alone[i], together[i]) << "sequence " << s << " element " << i;
        }
      }
    }
  }
}

TEST_P(Attention, WindowsHideOldTokensAndSinks) {
  for (int window : {1, 7, 16, 200, 5000}) {
    AttentionCase c = Case();
    c.window = window;
    c.sequences = {{300, 5}, {3, 9}, {0, 64}};
    RunDecode(c);
    c.sequences = {{300, 257}};
    RunPrefill(c);
  }
}

// The first key that a row sees is a page's first or last, or the row itself is.
TEST_P(Attention, WindowsMayBeginAndEndAtPageBounds) {
  for (KvFormat format : Formats()) {
    for (int window : {127, 128, 129, 256, 384}) {
      for (int slots : {1, 3}) {
        AttentionCase c = Case();
        c.format = format;
        c.window = window;
        c.paged_heads = 1;
        c.slots = slots;
        c.first_slot = slots / 2;
        c.sequences = {{127, 1}, {128, 1}, {254, 4}, {383, 2}, {384, 1}, {510, 3}, {511, 1}, {640, 1}};
        RunDecode(c);
      }
      AttentionCase c = Case();
      c.format = format;
      c.window = window;
      c.paged_heads = 1;
      for (int history : {0, 383, 384}) {
        c.sequences = {{history, 129}};
        RunPrefill(c);
      }
    }
  }
}

TEST_P(Attention, PartsOfASplitHeadSeeTheirOwnPagesOnly) {
  for (int first = 0; first < 5; ++first) {
    for (int count = 1; count <= std::min(2, 5 - first); ++count) {
      AttentionCase c = Case();
      c.format = KvFormat::kInt8;
      c.slots = 5;
      c.first_slot = first;
      c.num_slots = count;
      c.sequences = {{1500, 3}, {100, 2}, {2, 1}};
      RunDecode(c);
      c.sequences = {{1500, 130}};
      RunPrefill(c, first % 2 == 0);
    }
  }
}

TEST_P(Attention, PrefillMatchesTheReferenceForEveryFormat) {
  for (KvFormat format : Formats()) {
    for (int history : {0, 1, 255, 1000}) {
      AttentionCase c = Case();
      c.format = format;
      c.paged_heads = 1;
      c.sequences = {{history, 129}};
      RunPrefill(c);
    }
  }
}

TEST_P(Attention, PrefillMatchesTheReferenceForEveryGroupAndHeadSize) {
  for (int group : {1, 3, 4, 8}) {
    for (int d : {64, 80, 128}) {
      AttentionCase c = Case();
      c.group = group;
      c.head_dim = d;
      c.paged_heads = 1;
      c.sequences = {{257, 255}};
      RunPrefill(c);
    }
  }
}

TEST_P(Attention, StreamingMatchesForChunksOfEverySizeAndRingsThatWrapped) {
  for (int history : {0, 3, 5, 24, 26, 27, 100}) {
    for (int rows : {1, 7, 21, 64, 300}) {
      AttentionCase c = Case();
      c.ring_heads = 2;
      c.ring_format = KvFormat::kBF16;
      c.sequences = {{history, rows}, {history + 1, 2}};
      AttentionState state(device(), c);
      state.StoreStep();
      state.ExpectStepDecoded();
      state.AttendRinged();
      state.ExpectRingedResult();
      state.ExpectRingsStored();
    }
  }
}

TEST_P(Attention, RingsBeingRebuiltShowNothingBeforeTheirBeginning) {
  AttentionCase c = Case();
  c.sequences = {{100, 4, 100, true}, {100, 4, 95, true}, {100, 64, 99, true}, {30, 1, 28, true}};
  RunDecode(c);
}

TEST_P(Attention, NoSinksAndNoRecentTokensAreAllowed) {
  AttentionCase c = Case();
  c.sequences = {{50, 3}, {0, 2}};
  c.sink = 0;
  RunDecode(c);
  c.recent = 0;
  RunDecode(c);
  c.sink = 64;
  RunDecode(c);
}

}  // namespace
}  // namespace duo
