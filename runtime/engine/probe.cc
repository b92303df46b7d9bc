#include "runtime/engine/probe.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/splitmix64.h"
#include "runtime/engine/engine_state.h"
#include "runtime/model/worker_probe.h"
#include "runtime/weights/matrix_bits.h"

namespace duo {

absl::StatusOr<std::unique_ptr<Engine>> EngineProbe::Create(const ProbeOptions& options, Device& device,
                                                            Communicator& comm) {
  std::unique_ptr<Engine> engine(new Engine());
  if (absl::Status s = engine->state_->Start(options, device, comm); !s.ok()) return s;
  return engine;
}

absl::StatusOr<MemoryPlan> EngineProbe::PlanMemory(const ProbeOptions& options, Device& device, Communicator& comm) {
  Engine::State state;
  state.options = options;
  state.device = &device;
  state.comm = &comm;
  if (absl::Status s = state.Prepare(); !s.ok()) return s;
  return state.memory;
}

absl::StatusOr<SessionId> EngineProbe::CreateFilledSession(int64_t tokens, int64_t max_tokens) {
  Engine::State& state = *engine_.state_;
  if (state.scheduler->stats().sessions > 0) {
    return absl::FailedPreconditionError("the cache can be filled only while no session is open");
  }
  state.Send(Command::kFill, "");
  WorkerProbe::FillCache(*state.worker);
  std::vector<int32_t> ids(tokens);
  for (int64_t i = 0; i < tokens; ++i) {
    ids[i] = static_cast<int32_t>(SplitMix64(i) % static_cast<uint64_t>(state.config.vocab));
  }
  return state.scheduler->AdoptSession(max_tokens, std::move(ids), true);
}

absl::StatusOr<double> EngineProbe::CompareWithPlainAttention(SessionId id) {
  Engine::State& state = *engine_.state_;
  const Sequence* sequence = state.scheduler->FindSequence(id);
  if (sequence == nullptr) return absl::NotFoundError(absl::StrCat("there is no session ", id));
  state.Settle();
  return WorkerProbe::CompareWithPlainAttention(*state.worker, sequence->table, sequence->length);
}

void EngineProbe::Watch(RouteWatch watch) {
  Engine::State& state = *engine_.state_;
  state.Send(Command::kRoutes, std::string(1, static_cast<char>(watch)));
  WorkerProbe::Watch(*state.worker, watch);
}

RouteReport EngineProbe::Routes() const {
  const RouteTape* tape = engine_.state_->worker->model().routes().get();
  return tape == nullptr ? RouteReport() : tape->Report();
}

int EngineProbe::WeightBits() const { return MatrixBits(engine_.config(), engine_.state_->formats); }

int64_t EngineProbe::DecodeWeightBytes(std::optional<double> distinct_experts) const {
  const ModelWeights& weights = engine_.state_->worker->model().weights();
  int64_t bytes = weights.outer[WeightRole::kHead].bytes();
  const ExpertsConfig& experts = engine_.config().experts;
  for (const WeightSet& layer : weights.layers) {
    for (const Weight& matrix : layer.matrices) bytes += matrix.bytes();
    for (const WeightRole role : {WeightRole::kExpertGateUp, WeightRole::kExpertDown}) {
      if (experts.count == 0) continue;
      const double one = static_cast<double>(layer[role].bytes()) / experts.count;  // of one, the mean on this rank
      bytes -= static_cast<int64_t>(one * (experts.count - distinct_experts.value_or(experts.chosen)));
    }
  }
  return bytes;
}

}  // namespace duo
