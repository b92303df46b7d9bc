// What an audit says is what plain attention says: the share of each row's softmax on the listed pages, and the error
// of its result.
#include "kernels/page_audit.h"

#include "attention_fixture.h"

namespace duo {
namespace {

class PageAuditOn : public DeviceTest {};
INSTANTIATE_ON_DEVICES(PageAuditOn);

TEST_P(PageAuditOn, TheMassIsThatOfPlainAttention) {
  for (int trial = 0; trial < 3; ++trial) {
    AttentionCase c;
    if (cuda()) c.format = c.ring_format = KvFormat::kBF16;
    c.head_dim = trial % 2 == 0 ? 64 : 128;
    c.group = 1 + trial % 3;
    c.sequences = {{(9 + 3 * trial) * 128, 128}};
    c.seed = 100 + trial;
    if (!CheckPageLists(device(), c.head_dim, c.group, c.format).ok()) GTEST_SKIP() << "refused here by name";
    AttentionState state(device(), c);
    state.StoreStep();
    const ListRule rule = {1, 1, 2};
    const AuditRungs rungs = {3, {150, 300, 600}};
    const std::vector<int32_t> densities = {300, kDense};
    const std::vector<PageAudit> audits = state.Audit(rule, rungs, densities);
    for (int r = 0; r < rungs.count; ++r) {
      const AttentionState::Lists lists = state.AttendListed(rule, {rungs.density[r], rungs.density[r]});
      for (int h = 0; h < 2; ++h) {
        const auto [mass, error] = state.PlainMass(h, lists[h][0]);
        EXPECT_NEAR(audits[h].mass[r], mass, 1e-3) << "head " << h << " rung " << r;
        if (h != 0 || r != 1) continue;
        EXPECT_NEAR(audits[h].error, error, 0.01 * error + (cuda() ? 4e-3 : 1e-5));
      }
    }
    EXPECT_EQ(audits[1].error, 0) << "a dense head errs nowhere";
    EXPECT_LT(audits[0].mass[0], audits[0].mass[2]);
  }
}

}  // namespace
}  // namespace duo
