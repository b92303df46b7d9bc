// What `duo plan` was asked, and the request that the planner gets for it: the model's shape, which heads keep
// everything, and in what formats a GPU would hold weights and KV cache. Reads files and no weights; one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/terminal/commands.h"
#include "parallel/partition.h"
#include "runtime/weights/config.h"
#include "runtime/weights/weights.h"

namespace duo {

struct PlanFlags {
  std::string model;    // folder with config.json; or
  std::string config;   // the config.json itself
  std::string pattern;  // folder; empty: looked up by the model folder's name
  double sparsity = 0.5;
  double threshold = -1;  // below 0: by sparsity
  int world = 1;
  std::vector<double> rank_weights;  // [world] or empty
  std::vector<int> simulate;         // worlds that are compared; empty: `world` is shown
  int per_host = 8;                  // GPUs of a host, of those
  HostLayout links;                  // between the hosts
  double message_us = links.message_seconds * 1e6;
  int64_t link = static_cast<int64_t>(links.link);
  std::string attention = "auto";
  int64_t context = 0;     // tokens; 0: the model's own length
  int64_t gpu_memory = 0;  // bytes; 0: of the GPU at hand
  std::string gpu = "auto";
  std::string kv = "auto", weights = "auto", strategy = "auto", experts = "auto";
  std::string svg;  // file to write; empty: none
  bool json = false;
};

absl::StatusOr<ModelConfig> ReadConfig(const PlanFlags& flags);

// Of a config whose quantization_config has several groups: by the tensors, where there are files, else by what it
// says.
absl::StatusOr<WeightFormats> GroupFormats(const PlanFlags& flags, const ModelConfig& config);

// In a GPU's memory. Of several groups those of GroupFormats, which the caller has seen to be OK.
WeightFormats FormatsOf(const PlanFlags& flags, const ModelConfig& config);

// At which the engine cuts these columns.
int64_t UnitOf(const PlanFlags& flags, const ModelConfig& config, int64_t columns, int world);

// The GPU that the cost model's times are of, "H100" or the like; empty: none is at hand.
std::string GpuOf(const PlanFlags& flags);

// `note`: what the user should know of a choice made for him; or empty. Errors name the flag or the file.
absl::StatusOr<PartitionRequest> RequestOf(const PlanFlags& flags, const ModelConfig& config, const Launch& launch,
                                           std::string* note);

}  // namespace duo
