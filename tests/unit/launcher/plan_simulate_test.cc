#include "launcher/plan_simulate.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/unit/llama3_request.h"
#include "tests/unit/published_heads.h"

namespace duo {
namespace {

PartitionRequest Llama3() {
  PartitionRequest request = Llama3Request(136);
  request.heads = PublishedHeads("Llama-3-8B-Instruct-Gradient-1048k", 0.5);
  request.reads_per_step = ReadsPerStep(request.context);
  request.rates = RatesOfGpu("H200");
  return request;
}

SimulatedWorld World(int world, int per_host, HostLayout links = {}) {
  Partition partition;
  return *SimulateWorld(Llama3(), world, per_host, links, &partition);
}

TEST(PlanSimulate, IsThePlanOfTheSameWorldOnOneHost) {
  PartitionRequest request = Llama3();
  request.world = 4;
  const Partition partition = *MakePartition(request);
  const SimulatedWorld four = World(4, 8);
  EXPECT_EQ(four.hosts, 1);
  EXPECT_EQ(four.step_seconds, partition.step_seconds);
  EXPECT_EQ(four.read_seconds, partition.read_seconds);
}

TEST(PlanSimulate, HostsAreAsManyAsHoldTheGpusAndCostWhatTheirLinksTake) {
  EXPECT_EQ(World(16, 8).hosts, 2);
  EXPECT_EQ(World(17, 8).hosts, 3);
  const SimulatedWorld near = World(16, 16), far = World(16, 8),
                       slow = World(16, 8, {.link = 5e9, .message_seconds = 1e-4});
  EXPECT_GT(far.read_seconds, near.read_seconds);
  EXPECT_GT(slow.read_seconds, far.read_seconds);
  EXPECT_GT(slow.step_seconds, far.step_seconds);
}

// Eight retrieval heads a layer at most: 64 ranks cannot have whole ones.
TEST(PlanSimulate, SaysInHowManyLayersHeadsAreSplit) {
  EXPECT_EQ(World(1, 8).split_layers, 0);
  EXPECT_GT(World(64, 8).split_layers, 16);
}

// Two hosts of one GPU each: by rows as soon as what joins them is slow, and where memory has room.
TEST(PlanSimulate, ReadsByRowsOverSlowLinks) {
  SimulatedWorld slow = World(2, 1, {.link = 125e6});
  EXPECT_LT(slow.read_by_rows_seconds, slow.read_seconds / 2);
  EXPECT_TRUE(slow.reads_by_rows());
  slow.fits_by_rows = false;
  EXPECT_FALSE(slow.reads_by_rows());
  EXPECT_FALSE(World(2, 8).reads_by_rows());
  EXPECT_FALSE(World(1, 8).reads_by_rows());
}

TEST(PlanSimulate, TablesAndJsonHaveARowForEachWorld) {
  std::vector<SimulatedWorld> worlds = {World(1, 8), World(8, 8)};
  worlds[0].weights = 15'000'000'000, worlds[0].kv = 18'000'000'000, worlds[0].fits = false;
  worlds[1].weights = 2'000'000'000, worlds[1].kv = 2'200'000'000;
  worlds[1].weights_by_rows = 16'000'000'000, worlds[1].read_by_rows_seconds = worlds[1].read_seconds / 2;
  const std::string table = SimulationTable(worlds, "1,000,000 tokens", 30'000'000'000);
  EXPECT_NE(table.find("1,000,000 tokens"), std::string::npos) << table;
  EXPECT_NE(table.find(", does NOT fit\n"), std::string::npos) << table;
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 6) << table;  // three of words, a head, two rows
  SimulatedHosts hosts;
  hosts.gpu = "H200";
  hosts.per_host = 4;
  hosts.links.link = 25e9;
  const nlohmann::json json = nlohmann::json::parse(SimulationJson(worlds, Llama3(), hosts, 30'000'000'000));
  EXPECT_EQ(json["assumed"]["gpu"], "H200");
  EXPECT_EQ(json["assumed"]["gpus_per_host"], 4);
  EXPECT_EQ(json["assumed"]["host_link"], 25e9);
  EXPECT_EQ(json["assumed"]["host_message_seconds"], 20e-6);
  EXPECT_EQ(json["assumed"]["gpu_memory"], 30'000'000'000);
  EXPECT_EQ(json["assumed"]["kv_token_bytes"], Llama3().kv_token_bytes);
  EXPECT_EQ(json["context"], 1'000'000);
  ASSERT_EQ(json["simulated"].size(), 2u);
  EXPECT_EQ(json["simulated"][1]["world"], 8);
  EXPECT_EQ(json["simulated"][1]["memory"]["fits"], true);
  EXPECT_EQ(json["simulated"][0]["memory"]["fits"], false);
  EXPECT_EQ(json["simulated"][1]["by_rows"]["weights"], 16'000'000'000);
  EXPECT_EQ(json["simulated"][1]["prefill_split"], "rows");
  EXPECT_FALSE(json["simulated"][0].contains("by_rows"));
  EXPECT_NE(table.find(" s <  4.20 GB, fits; by rows 18.20 GB, fits\n"), std::string::npos) << table;
  EXPECT_GT(json["simulated"][0]["step_seconds"], json["simulated"][1]["step_seconds"]);
  const nlohmann::json unknown = nlohmann::json::parse(SimulationJson(worlds, Llama3(), hosts, 0));
  EXPECT_FALSE(unknown["simulated"][0]["memory"].contains("fits"));
  EXPECT_FALSE(unknown["assumed"].contains("gpu_memory"));
}

}  // namespace
}  // namespace duo
