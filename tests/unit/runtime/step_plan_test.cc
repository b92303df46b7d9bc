#include "runtime/model/step_plan.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

StepPlan Sample() {
  StepPlan plan;
  plan.kind = StepKind::kPrefill;
  plan.table_writes = {{1, 2, 3, 2}};
  plan.table_ids = {40, 41};
  plan.page_copies = {{0, 5, 6}};
  plan.ring_copies = {{0, 7, 8}};
  plan.tokens = {9, 10, 11};
  plan.positions = {100, 101, 102};
  plan.row_seq = {0, 0, 0};
  plan.spans = {{0, 3, 100, 1, 1, 2, 50, 1}};
  plan.list_target = 980;
  plan.draft_weights = 1;
  plan.sample_rows = {2};
  plan.samples = {{0.5f, 0.9f, 77, 103}};
  plan.rules = {{0, 40, 0.1f, 0, 1, 0, 5, -1}};
  plan.edits = {{3, 1.5f, -1}};
  plan.masks = {0xff, 7};
  plan.mass_samples = {0};
  plan.want_logits = 1;
  return plan;
}

TEST(StepPlan, ComesBackWholeFromItsBytes) {
  const std::string bytes = Serialize(Sample());
  auto parsed = ParseStepPlan(bytes);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(Serialize(*parsed), bytes);
  EXPECT_EQ(parsed->spans[0].ring_begin, 50);
  EXPECT_EQ(parsed->list_target, 980);
  EXPECT_EQ(parsed->draft_weights, 1);
  EXPECT_EQ(parsed->samples[0].seed, 77u);
  EXPECT_EQ(parsed->rules[0].scores, 5);
  EXPECT_EQ(parsed->edits[0].divide, 1.5f);
  EXPECT_EQ(parsed->masks[1], 7u);
  EXPECT_EQ(parsed->mass_samples, std::vector<int32_t>{0});
}

TEST(StepPlan, IsRefusedWhenCutOrLengthened) {
  const std::string bytes = Serialize(Sample());
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(ParseStepPlan(bytes.substr(0, size)).ok()) << size;
  EXPECT_FALSE(ParseStepPlan(bytes + "x").ok());
}

}  // namespace
}  // namespace duo
