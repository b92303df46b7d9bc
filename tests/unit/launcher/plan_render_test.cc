#include "launcher/plan_render.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "attn_patterns/head_plan.h"
#include "parallel/communicator.h"

namespace duo {
namespace {

// Two layers of four heads on two ranks: three retrieval heads, then none.
std::vector<Partition> Plan(PartitionRequest& request) {
  request.shape = {
      .layers = 2, .hidden = 64, .intermediate = 128, .heads = 8, .kv_heads = 4, .head_dim = 16, .vocab = 100};
  request.heads = {.layers = 2, .kv_heads = 4, .retrieval = {1, 0, 1, 1, 0, 0, 0, 0}};
  request.world = 2;
  request.kv_token_bytes = 64;
  request.strategy = Strategy::kSplit;
  return *AllStrategies(request);
}

TEST(PlanRender, IsTheSameForEqualWeightsAsForNone) {
  PartitionRequest request;
  request.shape = {
      .layers = 8, .hidden = 256, .intermediate = 512, .heads = 32, .kv_heads = 8, .head_dim = 16, .vocab = 100};
  request.heads = FullPlan(8, 8);
  std::mt19937 rng(6);
  for (uint8_t& retrieval : request.heads.retrieval) retrieval = rng() % 2;
  request.world = 3;
  request.kv_token_bytes = 64;
  const std::string without = PlanJson(*AllStrategies(request));
  request.rank_weights = {7, 7, 7};
  EXPECT_EQ(PlanJson(*AllStrategies(request)), without);
}

TEST(PlanRender, WritesTheJsonThatProgramsReadBack) {
  PartitionRequest request;
  const nlohmann::json json = nlohmann::json::parse(PlanJson(Plan(request)));
  EXPECT_EQ(json["strategy"], "split");
  EXPECT_EQ(json["world"], 2);
  const nlohmann::json& layer = json["layers"][0]["ranks"];
  EXPECT_EQ(layer[0]["retrieval"], nlohmann::json::array({0}));
  EXPECT_EQ(layer[1]["retrieval"], nlohmann::json::array({2}));
  EXPECT_EQ(layer[0]["split"], nlohmann::json::parse(R"([{"head": 3, "slots": [0, 1], "of": 2, "load": 0.5}])"));
  EXPECT_EQ(layer[1]["split"], nlohmann::json::parse(R"([{"head": 3, "slots": [1, 2], "of": 2, "load": 0.5}])"));
  EXPECT_EQ(layer[0]["streaming"].size() + layer[1]["streaming"].size(), 1u);
  EXPECT_EQ(json["layers"][1]["ranks"][0]["streaming"].size(), 2u);
  EXPECT_DOUBLE_EQ(json["balance"]["time"], 1);
  EXPECT_DOUBLE_EQ(json["balance"]["memory"], 1);
  EXPECT_DOUBLE_EQ(json["balance"]["heads_time"], 4.0 / 3);
  EXPECT_DOUBLE_EQ(json["balance"]["naive_time"], 4.0 / 3);
  EXPECT_GT(json["step_seconds"], 0.0);
  EXPECT_GT(json["read_seconds"], 0.0);
  for (const char* strategy : {"contiguous", "heads", "split", "auto"}) {
    EXPECT_GT(json["step_seconds_by_strategy"][strategy], 0.0);
    EXPECT_GT(json["read_seconds_by_strategy"][strategy], 0.0);
  }
}

TEST(PlanRender, DrawsOneRowALayerAndOneColumnARank) {
  PartitionRequest request;
  const std::vector<Partition> plan = Plan(request);
  const std::string table = PlanTable(request, plan);
  EXPECT_NE(table.find("    0 | #"), std::string::npos) << table;
  EXPECT_NE(table.find("  #5"), std::string::npos) << table;  // rank 1: head 2 whole, half of head 3
  EXPECT_NE(table.find("modelled decode step at 1,000,000 tokens"), std::string::npos) << table;
  const std::string svg = PlanSvg(request, plan[0]);
  int circles = 0;
  for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) ++circles;
  EXPECT_EQ(circles, 5);  // streaming heads
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
}

TEST(SelfCommunicator, IsTheWholeWorld) {
  const std::unique_ptr<Device> device = Device::Cpu(1);
  const std::unique_ptr<Communicator> comm = *MakeCommunicator(CommKind::kAuto, nullptr, *device);
  EXPECT_EQ(comm->rank(), 0);
  EXPECT_EQ(comm->size(), 1);
  EXPECT_TRUE(comm->capturable());
  float data[2] = {1.5f, -2};
  comm->AllReduceSum(View(data, DType::kF32, 1, 2), *device);
  EXPECT_EQ(data[0], 1.5f);
  float out[2] = {7, 7};
  comm->AllGather(out, data, sizeof(data), *device);
  EXPECT_EQ(out[1], -2);
  EXPECT_EQ(Agree(*comm, absl::NotFoundError("no such file")).message(), "no such file");
  EXPECT_EQ(*LocalGpu(CommKind::kAuto, nullptr, 2), 0);
  EXPECT_FALSE(ParseCommKind("tcp").ok());
}

}  // namespace
}  // namespace duo
