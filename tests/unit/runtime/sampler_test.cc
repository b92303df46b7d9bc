// What a draw is from: the tokens that top_k, min_p, top_p, edits and masks leave, and the scores beside it.
#include "runtime/model/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace duo {
namespace {

struct Draws {
  std::unique_ptr<Device> device = Device::Cpu(2);
  std::unique_ptr<Communicator> comm = MakeSelfCommunicator();

  StepResult Of(std::vector<float> logits, int rows, const StepPlan& plan) {
    const auto vocab = static_cast<int64_t>(logits.size() / rows);
    const LogitShard shard{View(logits.data(), DType::kF32, rows, vocab), 0};
    std::vector<ShardSample> samples(rows);
    SampleShard(*device, samples.data(), shard.logits, 0, plan.samples.data());
    Arena arena(std::move(*Buffer::Allocate(*device, DrawScratchBytes(*device, rows, vocab), "scratch")));
    return DrawTokens(*device, *comm, samples, shard, plan, arena);
  }
};

std::vector<float> Random(int count, uint32_t seed, float spread = 2.5f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> x(count);
  for (float& v : x) v = normal(rng);
  return x;
}

StepPlan OneRow(const SampleParams& params, const SampleRule& rule) {
  StepPlan plan;
  plan.sample_rows = {0};
  plan.samples = {params};
  plan.rules = {rule};
  return plan;
}

// The definition, on the whole row in double.
int32_t Reference(const std::vector<float>& x, const SampleParams& p, int top_k, float min_p) {
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  if (top_k > 0) order.resize(std::min<size_t>(order.size(), top_k));
  while (x[order.back()] / p.temperature < x[order[0]] / p.temperature + std::log(min_p)) order.pop_back();
  double total = 0, mass = 0;
  for (int32_t id : order) total += std::exp(double{x[id] / p.temperature});
  int32_t best = -1;
  float value = -INFINITY;
  for (int32_t id : order) {
    const float own = x[id] / p.temperature + SampleNoise(p.seed, p.position, id);
    if (own > value) {
      value = own;
      best = id;
    }
    mass += std::exp(double{x[id] / p.temperature}) / total;
    if (p.top_p < 1 && mass >= p.top_p) break;
  }
  return best;
}

TEST(Sampler, DrawsFromWhatTopKMinPAndTopPLeave) {
  Draws draws;
  const std::vector<float> x = Random(6000, 1);
  int beyond = 0;
  for (int position = 0; position < 40; ++position) {
    for (const int top_k : {0, 1, 5, 300, 3000}) {
      for (const float min_p : {0.0f, 0.3f, 0.0005f}) {
        for (const float top_p : {1.0f, 0.6f}) {
          if (top_k == 0 && min_p == 0) continue;
          SampleRule rule;
          rule.top_k = top_k;
          rule.min_p = min_p;
          const SampleParams p{1.0f, top_p, 9, position};
          const int32_t expected = Reference(x, p, top_k, min_p);
          ASSERT_EQ(draws.Of(x, 1, OneRow(p, rule)).tokens[0], expected)
              << top_k << " " << min_p << " " << top_p << " at " << position;
          beyond += expected != Reference(x, p, 0, 0);
        }
      }
    }
  }
  EXPECT_GT(beyond, 100);  // they do cut something
}

TEST(Sampler, ARuleThatAllowsEverythingChangesNoDraw) {
  Draws draws;
  const int vocab = 1000;
  for (int position = 0; position < 100; ++position) {
    const std::vector<float> x = Random(vocab, position);
    for (const float top_p : {1.0f, 0.7f}) {
      StepPlan plan;
      plan.sample_rows = {0};
      plan.samples = {{0.8f, top_p, 5, position}};
      const int32_t plain = draws.Of(x, 1, plan).tokens[0];
      SampleRule rule;
      rule.mask = 0;
      rule.top_k = vocab;
      plan.rules = {rule};
      plan.masks.assign((vocab + 31) / 32, 0xffffffffu);
      EXPECT_EQ(draws.Of(x, 1, plan).tokens[0], plain);
    }
  }
}

TEST(Sampler, WhatIsMaskedOrBannedIsNeverDrawn) {
  Draws draws;
  const int vocab = 300;
  StepPlan plan = OneRow({1.0f, 0.9f, 3, 0}, {});
  plan.rules[0].mask = 0;
  plan.rules[0].edits = 1;
  plan.edits = {{64, 1, -INFINITY}};
  plan.masks.assign((vocab + 31) / 32, 0);
  plan.masks[2] = 0b10110001;  // 64, 68, 69, 71
  for (const float temperature : {0.0f, 1.0f}) {
    for (int position = 0; position < 50; ++position) {
      plan.samples[0].temperature = temperature;
      plan.samples[0].position = position;
      const int32_t token = draws.Of(Random(vocab, position), 1, plan).tokens[0];
      EXPECT_TRUE(token == 68 || token == 69 || token == 71) << token;
    }
  }
  plan.masks[2] = 1;  // the banned one alone
  EXPECT_EQ(draws.Of(Random(vocab, 1), 1, plan).tokens[0], kNoneAllowed);
}

TEST(Sampler, ScoresAreTheModelsOwnWhateverChangesTheDraw) {
  Draws draws;
  const int vocab = 2000, rows = 5;
  const std::vector<float> x = Random(rows * vocab, 4);
  StepPlan plan;
  for (int row = 0; row < rows; ++row) {
    plan.sample_rows.push_back(row);
    plan.samples.push_back({row == 2 ? 0.0f : 0.6f, 0.9f, 1, row});
    SampleRule rule;
    rule.sample = row;
    rule.scores = row == 1 ? -1 : 4 * row;
    rule.top_k = 3;
    rule.target = row == 3 ? 77 : -1;
    plan.rules.push_back(rule);
  }
  const StepResult result = draws.Of(x, rows, plan);
  for (int row = 0; row < rows; ++row) {
    const TokenScore& score = result.scores[row];
    if (row == 1) continue;
    double sum = 0;
    for (int i = 0; i < vocab; ++i) sum += std::exp(double{x[row * vocab + i]});
    const auto logprob = [&](int32_t id) { return x[row * vocab + id] - std::log(sum); };
    EXPECT_EQ(score.chosen.token, row == 3 ? 77 : result.tokens[row]);
    EXPECT_NEAR(score.chosen.logprob, logprob(score.chosen.token), 1e-5);
    ASSERT_EQ(score.best.size(), 4u * row);
    for (size_t i = 0; i < score.best.size(); ++i) {
      EXPECT_NEAR(score.best[i].logprob, logprob(score.best[i].token), 1e-5);
      if (i == 0) continue;
      EXPECT_LE(score.best[i].logprob, score.best[i - 1].logprob);
    }
  }
}

}  // namespace
}  // namespace duo
