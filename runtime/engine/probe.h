// EngineProbe: what benchmarks need of an engine and nobody else may have: made-up models and documents, one rank's
// share of many on one device, and looks inside. Threads and errors as the engine's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "runtime/model/worker_probe.h"

namespace duo {

struct ProbeOptions : EngineOptions {
  std::optional<ModelConfig> shape;  // a model of this shape with random weights instead of model_dir's
  std::string mixed_weights;         // of a shape: a mixture of formats (MixedFormats) instead of `weights`
  int act_as_rank = 0;               // do this rank's share of the communicator's world (which then answers for all)
};

class EngineProbe {
 public:
  explicit EngineProbe(Engine& engine) : engine_(engine) {}

  // As Engine::Create.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const ProbeOptions& options, Device& device,
                                                        Communicator& comm);
  // The memory plan that Create would make, without loading anything. Every rank calls it.
  static absl::StatusOr<MemoryPlan> PlanMemory(const ProbeOptions& options, Device& device, Communicator& comm);

  // A session of `tokens` random tokens whose pages and rings hold random codes. Overwrites the whole cache, so no
  // other session may be open.
  absl::StatusOr<SessionId> CreateFilledSession(int64_t tokens, int64_t max_tokens);
  // The decode kernels against plain attention on this session's pages, relative L2 difference, on rank 0 and there for
  // whole heads.
  absl::StatusOr<double> CompareWithPlainAttention(SessionId id);
  // Bytes of this rank's weights that a decode step reads: everything but the embedding, of which it takes a row for
  // each, and the experts that no row chooses. distinct_experts: that some row chooses in a layer; of one row it is
  // known.
  int64_t DecodeWeightBytes(std::optional<double> distinct_experts = std::nullopt) const;
  // What the partition took for the bits of a weight (matrix_bits.h).
  int WeightBits() const;
  // Which experts rows choose is recorded, or replayed, by all ranks (route_tape.h); what was seen, of this rank.
  void Watch(RouteWatch watch);
  RouteReport Routes() const;

  using State = Engine::State;                // engine_state.h
  State& state() { return *engine_.state_; }  // for other probes

 private:
  Engine& engine_;
};

}  // namespace duo
