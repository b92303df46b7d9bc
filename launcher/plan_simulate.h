// What the cost model expects of clusters that are not at hand: worlds of several sizes side by side, so that one can
// be chosen. A table for people, JSON for programs. Pure functions of values; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/partition.h"
#include "parallel/prefill_split.h"

namespace duo {

struct SimulatedWorld {
  int world = 1, hosts = 1;
  int split_layers = 0;  // layers with heads that are split
  double step_seconds = 0, read_seconds = 0;
  double read_by_rows_seconds = 0;  // of --prefill-split rows; of one rank as read_seconds
  int64_t weights = 0, kv = 0;      // bytes of the fullest rank
  int64_t weights_by_rows = 0;      // bytes of its weights where it reads by rows
  bool mixture = false, whole_experts = false;
  bool fits = true;  // its memory, where that is known
  bool fits_by_rows = true;
  // Whether reading by rows is enough faster to be worth the memory, and has it: what `--prefill-split auto` would take
  // of such links.
  bool reads_by_rows() const {
    return world > 1 && fits_by_rows && read_by_rows_seconds < (1 - kLeastRowsGain) * read_seconds;
  }
};

// What was assumed of the machines.
struct SimulatedHosts {
  std::string gpu;   // whose rates they are
  int per_host = 8;  // GPUs
  HostLayout links;  // hosts: of each world its own
};

// `world` ranks of which `per_host` share a host, by the request's strategy, which is cheapest by the cost model where
// it is `auto`. links: of the hosts, whose number follows. `partition` becomes what its times are of.
absl::StatusOr<SimulatedWorld> SimulateWorld(PartitionRequest request, int world, int per_host, HostLayout links,
                                             Partition* partition);

// Gains are over the first of them. gpu: bytes of a GPU's memory; 0: not known.
std::string SimulationTable(const std::vector<SimulatedWorld>& worlds, const std::string& assumed, int64_t gpu);
std::string SimulationJson(const std::vector<SimulatedWorld>& worlds, const PartitionRequest& request,
                           const SimulatedHosts& hosts, int64_t gpu);

}  // namespace duo
