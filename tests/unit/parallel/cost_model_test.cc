// The cost model against what was measured: it must put the sum over all layers of the busiest rank within 10 % of what
// `duo bench balance` found on a GPU (tests/bench/results/h100_balance.json), and so rank placements as the GPU does.
#include "parallel/cost_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "attn_patterns/head_plan.h"
#include "parallel/partition.h"
#include "tests/support/source_dir.h"
#include "tests/unit/llama3_request.h"
#include "tests/unit/published_heads.h"

namespace duo {
namespace {

// All layers' busiest ranks, without messages.
double BusiestSeconds(const PartitionRequest& request) {
  const Partition partition = *MakePartition(request);
  CostModel model = MakeCostModel(request);
  model.rates.message_seconds = 0;
  model.rates.link = INFINITY;
  double seconds = 0;
  for (const std::vector<RankHeads>& layer : partition.layers) seconds += LayerSeconds(model, layer, partition.shares);
  return seconds;
}

TEST(CostModel, IsWithinTenPercentOfTheMeasuredBusiestRank) {
  std::ifstream file(SourceDir() + "/tests/bench/results/h100_balance.json");
  const nlohmann::json measured = nlohmann::json::parse(file);
  for (const nlohmann::json& row : measured["rows"]) {
    PartitionRequest request = Llama3Request(row["kv"] == "int4" ? 136 : 512);
    request.heads = PublishedHeads("Llama-3-8B-Instruct-Gradient-1048k", 0.5);
    request.world = row["world"];
    request.context = row["context"];
    request.strategy = *ParseStrategy(row["strategy"].get<std::string>());
    const double seconds = row["seconds"];
    EXPECT_NEAR(BusiestSeconds(request) / seconds, 1, 0.1) << row["kv"] << " " << row["world"] << row["strategy"];
  }
  EXPECT_EQ(measured["rows"].size(), 12u);
}

// Reading a million tokens, on one GPU and on two by three strategies (tests/bench/results/h100_x2.json).
TEST(CostModel, ReadsWithinFivePercentOfWhatWasMeasured) {
  std::ifstream file(SourceDir() + "/tests/bench/results/h100_x2.json");
  const nlohmann::json measured = nlohmann::json::parse(file);
  int found = 0;
  for (const nlohmann::json& group : measured["groups"]) {
    const std::string name = group["name"];
    if (name != "prefill1" && name != "prefill2_split" && name != "prefill2_heads" && name != "prefill2_contiguous") {
      continue;
    }
    PartitionRequest request = Llama3Request(136);
    request.heads = PublishedHeads("Llama-3-8B-Instruct-Gradient-1048k", 0.5);
    request.world = name == "prefill1" ? 1 : 2;
    request.context = group["rows"][0]["context"];
    request.strategy = name == "prefill1" ? Strategy::kSplit : *ParseStrategy(name.substr(name.find('_') + 1));
    EXPECT_NEAR(MakePartition(request)->read_seconds / group["rows"][0]["seconds"].get<double>(), 1, 0.05) << name;
    ++found;
  }
  EXPECT_EQ(found, 4);
}

// Decode steps of a million tokens on one and two H200 (tests/bench/results/h200_two_gpus.json), and the first runs on
// four, which are told of there and attended to pages by an older kernel with rates of its own.
TEST(CostModel, MeetsTheStepsOfTheH200WithinFivePercent) {
  struct Row {
    int world, kv_token_bytes;
    Strategy strategy;
    double seconds;
  };
  constexpr int kInt4 = 136, kFp8 = 260;
  for (const Row& row : {Row{1, kInt4, Strategy::kAuto, 9.22e-3}, Row{1, kFp8, Strategy::kAuto, 12.24e-3},
                         Row{2, kInt4, Strategy::kSplit, 5.83e-3}, Row{2, kFp8, Strategy::kSplit, 7.33e-3},
                         Row{4, kInt4, Strategy::kAuto, 4.05e-3}, Row{4, kFp8, Strategy::kAuto, 5.07e-3},
                         Row{4, kInt4, Strategy::kContiguous, 4.50e-3}, Row{4, kFp8, Strategy::kContiguous, 6.03e-3}}) {
    PartitionRequest request = Llama3Request(row.kv_token_bytes);
    request.heads = PublishedHeads("Llama-3-8B-Instruct-Gradient-1048k", 0.5);
    request.world = row.world;
    request.strategy = row.strategy;
    request.rates = RatesOfGpu("NVIDIA H200");
    if (row.world == 4) request.rates.kv = 4.0e12, request.rates.kv_codes = 3.45e12, request.rates.kv_int4 = 3.07e12;
    EXPECT_NEAR(MakePartition(request)->step_seconds / row.seconds, 1, 0.05)
        << row.world << " GPUs, " << row.kv_token_bytes << " bytes, " << Name(row.strategy);
  }
  EXPECT_EQ(RatesOfGpu("NVIDIA H100 80GB HBM3").weights, MachineRates().weights);
}

// By hand, from the header's formulas and rates.
TEST(CostModel, AddsUpWhatReadingTakes) {
  PartitionRequest request = Llama3Request(512);
  request.heads = FullPlan(32, 8);
  request.heads.sink = 64;
  request.heads.recent = 256;
  CostModel model = MakeCostModel(request);
  model.context = 1000;
  const double projection = 2.0 * (2 * 4 + 2) * 128 * 4096 / model.rates.read_gemm;
  const double row = 4.0 * 4 * 128 / model.rates.read_attention;  // against one key, a KV head's query heads
  EXPECT_NEAR(ReadAttentionSeconds(model, {.kv_heads = 4, .pieces = 1, .split = 0.25, .whole = 2, .streaming = 1}),
              1000 * (4 * projection + row * (2.25 * 500 + 321)), 1e-12);
  EXPECT_NEAR(ReadFeedForwardSeconds(model, 7168), 1000 * 6.0 * 4096 * 7168 / model.rates.read_gemm, 1e-12);
  EXPECT_NEAR(ReadFixedSeconds(model, 1), 1000 * model.rates.read_seconds, 1e-12);
  EXPECT_NEAR(ReadFixedSeconds(model, 2), 1000 * (model.rates.read_seconds + 4.0 * 4096 / model.rates.read_link),
              1e-12);
}

// By hand, from the header's formulas and rates.
TEST(CostModel, AddsUpWhatARankHolds) {
  PartitionRequest request = Llama3Request(512);
  request.heads = FullPlan(32, 8);
  request.heads.sink = 64;
  request.heads.recent = 256;
  CostModel model = MakeCostModel(request);
  model.context = 1'000'000;
  const double projection = (2 * 4 + 2) * 128 * 4096 * 2 / model.rates.weights;
  const double head = 512e6 / model.rates.kv, ring = 321 * 512 / model.rates.kv;
  EXPECT_NEAR(AttentionSeconds(model, {.kv_heads = 3, .whole = 2, .streaming = 1}), 3 * projection + 2 * head + ring,
              1e-12);
  // A piece is a launch of its own; so are then the whole heads.
  EXPECT_NEAR(AttentionSeconds(model, {.kv_heads = 2, .pieces = 1, .split = 0.25, .whole = 1}),
              2 * projection + 1.25 * head + 2 * model.rates.split_seconds, 1e-12);
  model.rates.kv_codes = 1e12, model.rates.kv_int4 = 2e12;
  model.kv_token_bytes = 136;  // int4
  EXPECT_NEAR(AttentionSeconds(model, {.kv_heads = 1, .whole = 1}), projection + 136e6 / 2e12, 1e-12);
  model.kv_token_bytes = 260;  // fp8
  EXPECT_NEAR(AttentionSeconds(model, {.kv_heads = 1, .whole = 1}), projection + 260e6 / 1e12, 1e-12);
  EXPECT_NEAR(MessageSeconds(model, 2), model.rates.message_seconds, 1e-12);
  model.rates.message_rank_seconds = 1e-6;
  EXPECT_NEAR(MessageSeconds(model, 4), model.rates.message_seconds + 2e-6, 1e-12);
  EXPECT_EQ(AllReduceSeconds(model, 1), 0);
}

// 16 ranks on two hosts: eight in each, twice, and a collective of the two between.
TEST(CostModel, AddsUpWhatMessagesBetweenHostsTake) {
  PartitionRequest request = Llama3Request(512);
  request.heads = FullPlan(32, 8);
  request.hosts = {.hosts = 2, .link = 25e9, .message_seconds = 30e-6};
  CostModel model = MakeCostModel(request);
  model.rates.message_seconds = 2e-6;
  model.rates.message_rank_seconds = 1e-6;
  model.context = 1000;
  EXPECT_NEAR(MessageSeconds(model, 16), 2 * (2e-6 + 6e-6) + 30e-6, 1e-12);
  EXPECT_NEAR(MessageSeconds(model, 2), 30e-6, 1e-12);  // one rank on each
  // Half of what a host has goes out, and as much of the sum comes back.
  EXPECT_NEAR(AllReduceSeconds(model, 16), MessageSeconds(model, 16) + 8192 / model.rates.link + 8192 / 25e9, 1e-12);
  EXPECT_NEAR(ReadFixedSeconds(model, 16),
              1000 * (model.rates.read_seconds + 2 * 8192 / model.rates.read_link + 2 * 8192 / 25e9), 1e-12);
  model.hosts.hosts = 8;
  EXPECT_NEAR(MessageSeconds(model, 64), 2 * (2e-6 + 6e-6) + 3 * 30e-6, 1e-12);
  EXPECT_NEAR(AllReduceSeconds(model, 8), 3 * 30e-6 + 8192 * 2 * 7 / 8 / 25e9, 1e-12);
}

}  // namespace
}  // namespace duo
