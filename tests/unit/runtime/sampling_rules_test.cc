// What is refused of a question's sampling rules, and what the others become in a step's plan.
#include "runtime/scheduler/sampling_rules.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace duo {
namespace {

TEST(SamplingRules, ValuesOutOfRangeAndNaNsAreRefusedByName) {
  const std::vector<std::pair<const char*, std::function<void(SamplingRules&)>>> wrong = {
      {"top_k", [](SamplingRules& r) { r.top_k = -1; }},
      {"min_p", [](SamplingRules& r) { r.min_p = 1.5f; }},
      {"min_p", [](SamplingRules& r) { r.min_p = NAN; }},
      {"presence_penalty", [](SamplingRules& r) { r.presence_penalty = -2.1f; }},
      {"presence_penalty", [](SamplingRules& r) { r.presence_penalty = NAN; }},
      {"frequency_penalty", [](SamplingRules& r) { r.frequency_penalty = INFINITY; }},
      {"frequency_penalty", [](SamplingRules& r) { r.frequency_penalty = NAN; }},
      {"repetition_penalty", [](SamplingRules& r) { r.repetition_penalty = 0; }},
      {"repetition_penalty", [](SamplingRules& r) { r.repetition_penalty = NAN; }},
      {"logit_bias",
       [](SamplingRules& r) {
         r.logit_bias = {{100, 1.0f}};
       }},
      {"logit_bias",
       [](SamplingRules& r) {
         r.logit_bias = {{-1, 1.0f}};
       }},
      {"logit_bias",
       [](SamplingRules& r) {
         r.logit_bias = {{1, 101.0f}};
       }},
      {"logit_bias",
       [](SamplingRules& r) {
         r.logit_bias = {{1, NAN}};
       }},
      {"logit_bias", [](SamplingRules& r) { r.logit_bias.resize(kMostBiases + 1); }},
      {"stop_tokens", [](SamplingRules& r) { r.stop_tokens = {100}; }},
      {"stop tokens", [](SamplingRules& r) { r.stop_tokens.resize(kMostStopTokens + 1); }},
      {"min_new_tokens", [](SamplingRules& r) { r.min_new_tokens = -1; }},
      {"logprobs", [](SamplingRules& r) { r.scores = kMostBest + 1; }},
      {"prompt_logprobs", [](SamplingRules& r) { r.prompt_scores = -2; }},
  };
  EXPECT_TRUE(CheckRules(SamplingRules(), 100).ok());
  for (const auto& [field, change] : wrong) {
    SamplingRules rules;
    change(rules);
    const absl::Status status = CheckRules(rules, 100);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_NE(status.message().find(field), std::string::npos) << status;
  }
}

TEST(SamplingRules, RulesThatAskForNothingLeaveNoTraceInThePlan) {
  StepPlan plan;
  plan.samples = {{}};
  AddRule(SamplingRules(), {}, {}, {}, &plan);
  EXPECT_TRUE(plan.rules.empty() && plan.edits.empty() && plan.masks.empty());
}

TEST(SamplingRules, PenaltiesBiasesAndBansOfATokenBecomeOneEdit) {
  SamplingRules rules;
  rules.presence_penalty = 0.5f;
  rules.frequency_penalty = 0.25f;
  rules.repetition_penalty = 1.2f;
  rules.logit_bias = {{7, 3.0f}, {9, -1.0f}};
  StepPlan plan;
  plan.samples = {{}, {}};
  AddRule(rules, {{7, 2}, {8, 1}}, {8}, {0xffu}, &plan);
  ASSERT_EQ(plan.rules.size(), 1u);
  EXPECT_EQ(plan.rules[0].sample, 1);
  EXPECT_EQ(plan.rules[0].mask, 0);
  ASSERT_EQ(plan.edits.size(), 3u);
  EXPECT_EQ(plan.edits[0].id, 7);
  EXPECT_FLOAT_EQ(plan.edits[0].divide, 1.2f);
  EXPECT_FLOAT_EQ(plan.edits[0].add, 3.0f - 0.5f - 2 * 0.25f);
  EXPECT_EQ(plan.edits[1].add, -INFINITY);
  EXPECT_FLOAT_EQ(plan.edits[2].divide, 1);
  EXPECT_FLOAT_EQ(plan.edits[2].add, -1);
}

}  // namespace
}  // namespace duo
