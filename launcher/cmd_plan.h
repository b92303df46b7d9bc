// `duo plan`: shows, without loading a model, which rank would hold which attention head, how even that is, and how
// long a decode step would take by the cost model. Needs no GPU, no MPI and no weights. Run once, on one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace duo {

struct PlanOptions {
  std::string model;    // folder with config.json; or
  std::string config;   // the config.json itself
  std::string pattern;  // folder; empty: looked up by the model folder's name
  double sparsity = 0.5;
  double threshold = -1;  // below 0: by sparsity
  int world = 1;
  std::vector<double> rank_weights;  // [world] or empty
  int64_t context = 1'000'000;       // tokens
  std::string kv = "auto";           // auto: bf16
  std::string weights = "auto";      // auto: as stored
  std::string strategy = "auto";
  std::string svg;  // file to write; empty: none
  bool json = false;
};

// Prints the table or the JSON to stdout and writes the drawing.
absl::Status Plan(const PlanOptions& options);

// Registers the subcommand; when it is the one that was asked for, its exit code is in *exit_code after parsing.
void AddPlanCommand(CLI::App& app, int* exit_code);

}  // namespace duo
