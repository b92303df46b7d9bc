// What only the CUDA backend has: prefill in slices through cuDNN, key splits for few rows, and decode from a graph.
#include "attention_fixture.h"
#include "kernels/attention.h"

namespace duo {
namespace {

class CudaAttention : public DeviceTest {
 protected:
  AttentionCase Case(int head_dim, int group, int heads) {
    AttentionCase c;
    c.format = c.ring_format = KvFormat::kBF16;
    c.head_dim = head_dim;
    c.group = group;
    c.paged_heads = heads;
    return c;
  }
  void Prefill(const AttentionCase& c, bool own_square = true) {
    SCOPED_TRACE(testing::Message() << Name(c.format) << " head_dim " << c.head_dim << " group " << c.group << " heads "
                                    << c.paged_heads << " history " << c.sequences[0].history << " rows "
                                    << c.sequences[0].rows);
    AttentionState state(device(), c);
    state.StoreStep();
    state.AttendPaged(true, own_square);
    state.ExpectPagedResult(true, own_square);
  }
};
INSTANTIATE_TEST_SUITE_P(gpu, CudaAttention, testing::Values(DeviceKind::kCuda),
                         [](const auto&) { return std::string("device"); });

TEST_P(CudaAttention, ChunksOfManyRowsMatchInSlicesOfEveryKind) {
  for (int rows : {512, 513, 1100}) {  // one whole slice; a padded one; whole and padded, with a rectangle between
    for (int head_dim : {64, 128}) {
      AttentionCase c = Case(head_dim, rows == 513 ? 3 : 1, 1);
      c.sequences = {{rows == 513 ? 0 : 77, rows}};
      c.seed = rows + head_dim;
      Prefill(c);
    }
  }
}

TEST_P(CudaAttention, ChunksWithSeveralHeadsOverCodedHistoryMatch) {
  AttentionCase c = Case(128, 1, 3);
  c.format = KvFormat::kInt4;
  c.sequences = {{1025, 600}};
  Prefill(c);
}

TEST_P(CudaAttention, CodedHistoriesLongerThanWhatIsDecodedAtOnceMatch) {
  AttentionCase c = Case(128, 1, 4);  // 32,768 tokens at once on Hopper, 65,536 elsewhere
  c.format = KvFormat::kInt8;
  c.sequences = {{33300, 66}};
  Prefill(c);
}

TEST_P(CudaAttention, HistoriesOfMoreThanOneSegmentMatch) {
  for (KvFormat format : {KvFormat::kBF16, KvFormat::kInt8}) {
    AttentionCase c = Case(64, 1, 1);
    c.format = format;
    c.sequences = {{65536 + 170, 66}};  // 65,536 tokens a segment where cuDNN attends
    Prefill(c);
  }
}

TEST_P(CudaAttention, HoldersOfASplitHeadWithoutTheSquareMatch) {
  AttentionCase c = Case(64, 2, 1);
  c.slots = 3;
  c.first_slot = 1;
  c.num_slots = 1;
  c.sequences = {{900, 520}};
  Prefill(c, false);
}

TEST_P(CudaAttention, FewRowsOverManyKeysMatchAlthoughKeysAreSplit) {
  for (int group : {1, 4}) {
    AttentionCase c = Case(128, group, 1);
    c.sequences = {{3000, 65}};
    Prefill(c);
  }
}

TEST_P(CudaAttention, ChunksOfAnyLengthOverPagesOfAnyFillMatch) {
  for (int head_dim : {64, 128}) {
    for (int group : {1, 3, 7}) {  // rows of a tile that begin and end inside a token's group
      for (int history : {0, 1, 127, 128, 1300}) {
        AttentionCase c = Case(head_dim, group, 2);
        c.sequences = {{history, 65 + (history + 31 * group) % 150}};
        c.seed = head_dim + group + history;
        Prefill(c);
      }
    }
  }
}

constexpr KvFormat kCudaFormats[] = {KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4};

// Elements of the heads that lie in pages; other columns are poisoned.
void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& wanted, const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(wanted[i])) continue;
    ASSERT_EQ(got[i], wanted[i]) << what << ", element " << i;
  }
}

// On Hopper with bf16 pages; elsewhere a row's company may change how its keys are cut. Up to eight rows of a sequence
// by itself are another kernel's.
TEST_P(CudaAttention, RowsOfForksHaveTheSameBitsSharedAndMoreThanEightOfThemByThemselves) {
  if (device().info().capability != 90) GTEST_SKIP() << "another kernel";
  for (KvFormat format : kCudaFormats) {
    for (int head_dim : {64, 128}) {
      for (int slots : {1, 3}) {
        AttentionCase c = Case(head_dim, slots == 1 ? 8 : 3, 2);  // two blocks of pairs, and one
        c.format = format;
        c.slots = slots;
        c.first_slot = slots / 2;
        c.shared = 1536;  // the rest of the last range that all share is read by each for himself
        c.sequences = {{1536, 1}, {1700, 2}, {1536 + 384, 1}, {3100, 9}, {1537, 1}};
        SCOPED_TRACE(testing::Message() << Name(format) << " head_dim " << head_dim << " slots " << slots);
        AttentionState state(device(), c);
        state.StoreStep();
        state.AttendPaged(false);
        state.ExpectPagedResult(false);
        if (format != KvFormat::kBF16) continue;
        const std::vector<float> together = state.Out();
        state.AttendPagedAlone(3);
        ExpectSameBits(state.Out(), together, "the sequence of nine rows");
      }
    }
  }
}

TEST_P(CudaAttention, ManyForksOfOneDocumentMatch) {
  for (KvFormat format : kCudaFormats) {
    for (int head_dim : {64, 128}) {
      AttentionCase c = Case(head_dim, 4, 1);
      c.format = format;
      c.shared = 2176;
      for (int i = 0; i < 40; ++i) c.sequences.push_back({2176 + 9 * i, 1 + i % 2});
      SCOPED_TRACE(testing::Message() << Name(format) << " head_dim " << head_dim);
      AttentionState state(device(), c);
      state.StoreStep();
      state.AttendPaged(false);
      state.ExpectPagedResult(false);
    }
  }
}

// 64 rows of one sequence beside others of few: blocks whose two halves are worked on apart, and blocks of few rows.
TEST_P(CudaAttention, StepsOfMoreThanSixteenRowsMatch) {
  for (KvFormat format : kCudaFormats) {
    for (int group : {1, 4, 7}) {
      AttentionCase c = Case(group == 4 ? 128 : 64, group, 2);
      c.format = format;
      c.sequences = {{2500, 64}, {4097, 1}, {0, 33}, {130, 17}};
      SCOPED_TRACE(testing::Message() << Name(format) << " group " << group);
      AttentionState state(device(), c);
      state.StoreStep();
      state.AttendPaged(false);
      state.ExpectPagedResult(false);
    }
  }
}

TEST_P(CudaAttention, OnePlanServesEveryLayerOfAStep) {
  for (int rows : {1, 3}) {
    AttentionCase c = Case(128, 4, 3);
    c.format = KvFormat::kInt4;
    c.shared = 1024;
    c.sequences = {{1024, rows}, {2000, rows}, {1500, rows}, {1024, rows}, {3000, rows}};
    AttentionState state(device(), c);
    state.StoreStep();
    state.AttendPaged(false);
    const std::vector<float> without = state.Out();
    state.AttendPagedByPlan(3);
    state.ExpectPagedResult(false);
    ExpectSameBits(state.Out(), without, "with a plan");
  }
}

TEST_P(CudaAttention, DecodeReplayedFromAGraphMatches) {
  for (KvFormat format : {KvFormat::kInt8, KvFormat::kBF16}) {
    AttentionCase c = Case(128, 4, 2);
    c.format = format;
    c.sequences = {{700, 1}, {0, 1}, {129, 1}};
    AttentionState state(device(), c);
    state.StoreStep();
    state.AttendFromGraph();
    // The graph wrote every head; the comparisons below want the other kind's columns poisoned, so each runs alone.
    AttentionState paged(device(), c), ringed(device(), c);
    paged.StoreStep();
    paged.AttendPaged(false);
    ringed.StoreStep();
    ringed.AttendRinged();
    const std::vector<float> got = state.Out(), from_pages = paged.Out(), from_rings = ringed.Out();
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], std::isnan(from_pages[i]) ? from_rings[i] : from_pages[i]) << "element " << i;
    }
  }
}

// Blocks that attend to streaming heads take less of the pages; there are few pages, more, and so many that each block
// has its whole share.
TEST_P(CudaAttention, StreamingHeadsInThePagesLaunchHaveTheirOwnBits) {
  if (device().info().capability != 90) GTEST_SKIP() << "streaming heads are by themselves";
  for (KvFormat format : kCudaFormats) {
    for (int head_dim : {64, 128}) {
      if (format == KvFormat::kBF16 && head_dim == 128) continue;  // blocks of another size
      for (int history : {0, 5, 300, 3000, 40000}) {
        if (format == KvFormat::kBF16 && history == 3000) continue;  // more rows are another kernel's
        if (format != KvFormat::kInt4 && history == 300) continue;   // several rows' streaming heads go by themselves
        AttentionCase c = Case(head_dim, history == 300 ? 2 : 4, 1 + history % 2 + history / 20000);
        c.format = format;
        c.ring_heads = 3;
        c.sequences = {{history, history == 300 ? 4 : 1}};
        if (history == 3000) c.sequences = {{3000, 1}, {131, 1}, {0, 1}};
        SCOPED_TRACE(testing::Message() << Name(format) << " head_dim " << head_dim << " history " << history);
        AttentionState state(device(), c), ringed(device(), c);
        state.StoreStep();
        const std::vector<float> together = state.AttendTogether();
        state.ExpectPagedResult(false);
        state.ExpectRingsStored();
        ringed.StoreStep();
        ringed.AttendRinged();
        ExpectSameBits(together, ringed.Out(), "streaming heads");
      }
    }
  }
}

}  // namespace
}  // namespace duo
