// The memory that a rank of a plan needs, and whether a GPU has it. Pure functions of plain values but for
// asking the GPU at hand for its memory; one thread.
#pragma once

#include <cstdint>
#include <string>

#include "launcher/plan_request.h"
#include "parallel/partition.h"
#include "runtime/weights/config.h"

namespace duo {

// What the fullest rank needs for one document of `context` tokens, without the workspace and the driver's share.
struct RankMemory {
  int64_t weights = 0, kv = 0;
  int64_t peers = 0;  // the other ranks' weights, which it needs to read by rows
  int64_t gpu = 0;    // 0: none is known
  int64_t total() const { return weights + kv; }
  // The rest is for the workspace, libraries and the driver.
  bool fits() const { return Fits(total()); }
  bool fits_by_rows() const { return Fits(total() + peers); }
  bool Fits(int64_t bytes) const { return static_cast<double>(bytes) <= 0.94 * static_cast<double>(gpu); }
};

// Of the fullest rank; per_host: ranks of a host.
RankMemory MemoryOf(const PlanFlags& flags, const ModelConfig& config, const PartitionRequest& request,
                    const Partition& partition, int per_host);

// One line for people, with its line's end. formats: of the weights, as Text(FormatShares) has them.
std::string Describe(const RankMemory& memory, const std::string& formats, int64_t context);

}  // namespace duo
