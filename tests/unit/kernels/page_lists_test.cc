// Sparse attention over page lists: which pages are chosen, and that rows attend to these and nothing else.
#include "kernels/page_lists.h"

#include <random>

#include "attention_fixture.h"

namespace duo {
namespace {

class PageListsOn : public DeviceTest {
 protected:
  AttentionCase Case(int history, int rows) const {
    AttentionCase c;
    if (cuda()) c.format = c.ring_format = KvFormat::kBF16;
    c.sequences = {{history, rows}};
    return c;
  }
  void Run(const AttentionCase& c, const ListRule& rule, const std::vector<int32_t>& densities) {
    SCOPED_TRACE(testing::Message() << Name(c.format) << " head_dim " << c.head_dim << " group " << c.group
                                    << " history " << c.sequences[0].history << " rows " << c.sequences[0].rows);
    if (!CheckAttention(device(), c.head_dim, c.group, c.format).ok()) return;
    if (!CheckPageLists(device(), c.head_dim, c.group, c.format).ok()) return;
    AttentionState state(device(), c);
    state.StoreStep();
    const AttentionState::Lists lists = state.AttendListed(rule, densities);
    state.ExpectListsFollow(rule, densities, lists);
    state.ExpectListedResult(lists);
  }
};
INSTANTIATE_ON_DEVICES(PageListsOn);

constexpr ListRule kShort = {1, 1, 3};

TEST_P(PageListsOn, RowsAttendToTheirListsForEveryFormat) {
  for (KvFormat format : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4}) {
    if (format == KvFormat::kF32 && cuda()) continue;
    AttentionCase c = Case(13 * 128, 128);
    c.format = format;
    Run(c, kShort, {200, 400});
  }
}

TEST_P(PageListsOn, RowsAttendToTheirListsForEveryGroupAndHeadSize) {
  for (const auto& [group, d] : {std::pair(1, 64), {2, 128}, {3, 64}, {4, 128}, {7, 80}}) {
    AttentionCase c = Case(9 * 128, 128);
    c.group = group;
    c.head_dim = d;
    c.seed = group * 1000 + d;
    Run(c, kShort, {300, 600});
  }
}

TEST_P(PageListsOn, SomeRowsMaySpeakForTheBlock) {
  for (const int stride : {2, 4, 8}) {
    for (const int group : {3, 4}) {
      AttentionCase c = Case(9 * 128, 256);
      c.group = group;
      Run(c, {1, 1, 3, stride}, {300, 600});
    }
  }
}

TEST_P(PageListsOn, ATextIsReadFromItsFirstBlockOn) {
  Run(Case(0, 128), kShort, {100, 1000});
  Run(Case(0, 6 * 128), kShort, {100, 1000});
}

// At full density nothing is left out, and the result is that of dense attention.
TEST_P(PageListsOn, AtFullDensityEveryPageIsVisited) {
  const AttentionCase c = Case(6 * 128, 384);
  if (!CheckPageLists(device(), c.head_dim, c.group, c.format).ok()) GTEST_SKIP() << "refused here by name";
  AttentionState state(device(), c);
  state.StoreStep();
  const AttentionState::Lists lists = state.AttendListed(kShort, {kDense, kDense});
  for (int b = 0; b < 3; ++b) EXPECT_EQ(lists[0][b].size(), size_t(6 + b));
  state.ExpectPagedResult(false);
}

// A block's list is the same whatever else is in the step.
TEST_P(PageListsOn, ListsDoNotDependOnTheCutIntoSteps) {
  const AttentionCase whole = Case(8 * 128, 512);
  if (!CheckPageLists(device(), whole.head_dim, whole.group, whole.format).ok()) {
    GTEST_SKIP() << "refused here by name";
  }
  AttentionState state(device(), whole);
  state.StoreStep();
  const AttentionState::Lists all = state.AttendListed(kShort, {300, 500});
  const AttentionState::Lists part = state.AttendListedPart(kShort, {300, 500}, 2, 1);
  for (int h = 0; h < 2; ++h) EXPECT_EQ(part[h][0], all[h][2]) << "head " << h;
}

TEST(ListRule, ListsHaveTheLengthOfTheDensityAndNeverLessThanTheFloor) {
  const ListRule rule = {1, 4, 16};
  EXPECT_EQ(rule.Length(250, 0), 0);
  EXPECT_EQ(rule.Length(250, 10), 10);
  EXPECT_EQ(rule.Length(250, 40), 16);
  EXPECT_EQ(rule.Length(250, 1000), 250);
  EXPECT_EQ(rule.Length(250, 1001), 251);
  EXPECT_EQ(rule.Length(kDense, 7813), 7813);
  EXPECT_EQ(rule.Length(150, 32768), 4916);
  EXPECT_EQ((ListRule{1, 4, 0}).Length(1, 100), 5);  // sinks and local pages have their places in any case
}

}  // namespace
}  // namespace duo
