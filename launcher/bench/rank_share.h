// What one rank's share of a step takes when nobody has to be waited for: its work is timed alone, on a SimulatedRank.
// Shared by the verbs of `duo bench` that run under mpirun (busy and wait of each rank) or model several ranks on one
// device. One thread.
#pragma once

#include <functional>
#include <vector>

#include "launcher/bench/bench.h"
#include "launcher/bench/simulated_rank.h"

namespace duo {

struct DecodeShare {
  double step_seconds = 0;        // median
  std::vector<LayerTime> layers;  // medians
  HeadPlan heads;                 // of the model
  KvFormat kv = KvFormat::kBF16;
  int weight_bits = 16;  // that the partition was made for
};

// Who takes part in a decode step: answers on so many forks of one document, or so many new tokens of it at once.
struct StepCompany {
  int forks = 1, rows = 1;  // one of them is 1
};
// Pages' tokens that TimeDecodeSteps asks of an engine, and of its longest session.
int64_t StepTokens(const BenchFlags& flags, int64_t context, StepCompany company);

// Seconds of each of `flags.steps` decode steps behind `context` random tokens; `after` runs after each. routes: which
// experts one of the steps ahead of them chose, where it is not null.
absl::StatusOr<std::vector<double>> TimeDecodeSteps(const BenchFlags& flags, Engine& engine, int64_t context,
                                                    StepCompany company, const std::function<void()>& after,
                                                    RouteReport* routes = nullptr);

// Whose share of how many ranks.
struct RankOf {
  int rank = 0, world = 1;
};

// This share, on this process's device, whatever its own rank is.
absl::StatusOr<DecodeShare> TimeDecodeShare(const BenchFlags& flags, ProbeOptions options, const ModelConfig& config,
                                            Device& device, int64_t context, RankOf of);

// Gathers what each rank's share took alone, `alone`, beside what the step took in all, and adds to the row:
// rank_busy_seconds, rank_wait_seconds (messages and waiting for others) and busy_balance (busiest over mean). The two
// times are of two runs: a rank whose share took longer alone than the step did with others has waited for nothing.
// Collective; row is used on rank 0.
absl::Status AddRankTimes(Communicator& comm, const absl::StatusOr<double>& alone, Measurement* row);

}  // namespace duo
