// The best logits of rows whose vocabulary is cut between ranks: all ranks get the same ones, in the same order.
// Not thread-safe; collective; synchronises the device.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace duo {

// This rank's columns of the logits, device [rows, shard] f32, from token first_id on.
struct LogitShard {
  View logits;
  int32_t first_id = 0;
};

struct Candidate {
  float logit = 0;
  int32_t id = -1;
};

// Of each row the `count` best of every rank's shard, likeliest first, ties by ascending id. The first `count` of them
// are the row's; what follows may lack better ones.
std::vector<std::vector<Candidate>> BestLogits(Device& device, Communicator& comm, const LogitShard& own, int count,
                                               Arena& arena);

// Arena bytes for that.
size_t BestLogitsBytes(const Device& device, int64_t rows, int64_t shard, int count);

}  // namespace duo
