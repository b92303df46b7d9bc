// What a benchmark says of one rank of several, whose share it times alone.
#include "launcher/bench/rank_share.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "launcher/bench/simulated_rank.h"
#include "runtime/engine/probe.h"

namespace duo {
namespace {

TEST(RankShare, NobodyWaitsForLessThanNothing) {
  const std::unique_ptr<Communicator> self = MakeSelfCommunicator();
  Measurement row;
  row.seconds = 1;
  ASSERT_TRUE(AddRankTimes(*self, 0.75, &row).ok());
  EXPECT_EQ(row.details["rank_wait_seconds"][0], 0.25);
  ASSERT_TRUE(AddRankTimes(*self, 1.5, &row).ok());
  EXPECT_EQ(row.details["rank_busy_seconds"][0], 1.5);
  EXPECT_EQ(row.details["rank_wait_seconds"][0], 0);
}

// Rows arrive from ranks that are not there: whatever lay in memory before is not read.
TEST(RankShare, WhatOthersWouldSendIsWritten) {
  const std::unique_ptr<Device> device = Device::Cpu(1);
  SimulatedRank comm(3, 1, *device);
  const std::vector<uint8_t> in = {1, 2, 3, 4, 5};
  std::vector<uint8_t> out(12 + 1, 0xee);
  comm.AllToAll(out.data(), std::vector<int64_t>{4, 4, 4}, in.data(), std::vector<int64_t>{2, 3, 0}, *device);
  EXPECT_EQ(out, (std::vector<uint8_t>{1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 0xee}));
  comm.AllToAll(out.data(), std::vector<int64_t>{4, 4, 4}, in.data(), std::vector<int64_t>{0, 0, 0}, *device);
  EXPECT_EQ(out, (std::vector<uint8_t>{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xee}));
}

// Communicators that a rank's parts are alive of.
class CountedRank : public SimulatedRank {
 public:
  CountedRank(int world, Device& device, int& alive)
      : SimulatedRank(world, 1, device), world_(world), device_(device), alive_(alive) {
    ++alive_;
  }
  ~CountedRank() override { --alive_; }
  std::unique_ptr<Communicator> Split(int) override { return std::make_unique<CountedRank>(world_, device_, alive_); }

 private:
  int world_;
  Device& device_;
  int& alive_;
};

// Links that take no time have `auto` read by heads: what it asked for to measure rows is given back, as NCCL's memory
// for it would be missed.
TEST(RankShare, RowsThatAutoDoesNotTakeGiveTheirCommunicatorsBack) {
  const std::unique_ptr<Device> device = Device::Cpu(1);
  ProbeOptions options;
  ModelConfig shape;
  shape.layers = 2;
  shape.hidden = 64;
  shape.intermediate = 48;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 16;
  shape.vocab = 300;
  shape.max_position_embeddings = 2048;
  options.shape = shape;
  options.attention = AttentionMode::kFull;
  options.kv_tokens = 4096;
  options.max_session_tokens = 1024;
  for (const auto& [split, parts] :
       {std::pair(PrefillSplit::kHeads, 0), std::pair(PrefillSplit::kAuto, 0), std::pair(PrefillSplit::kRows, 1)}) {
    int alive = 0;
    CountedRank comm(2, *device, alive);
    options.prefill_split = split;
    const auto engine = EngineProbe::Create(options, *device, comm);
    ASSERT_TRUE(engine.ok()) << engine.status();
    EXPECT_EQ((*engine)->memory_plan().peer_shards > 0, split == PrefillSplit::kRows);
    EXPECT_EQ(alive, 1 + parts) << Name(split);
  }
}

}  // namespace
}  // namespace duo
