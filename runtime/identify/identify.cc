#include "runtime/identify/identify.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/math.h"
#include "kernels/base/read_file.h"
#include "kernels/base/seconds.h"
#include "runtime/files/json_fields.h"

namespace duo {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMostStateBytes = size_t{1} << 30;

struct RunState {
  GateOptimizer optimizer;
  std::vector<double> distillation;
  double seconds = 0;
};

// What must be the same for a state to go on from. Numbers as text: equal settings give equal bytes.
std::string Settings(const IdentifyOptions& o) {
  return absl::StrFormat("steps %d, samples %d, lr %.17g, reg %.17g, lengths %d to %d, seed %d, %s", o.steps, o.samples,
                         o.rate, o.reg, o.min_length, o.max_length, o.seed, o.fingerprint);
}

absl::Status Save(const IdentifyOptions& options, const RunState& state) {
  const ordered_json out = {{"settings", Settings(options)},
                            {"step", state.optimizer.step},
                            {"seconds", state.seconds},
                            {"gates", state.optimizer.gates},
                            {"first_moments", state.optimizer.first},
                            {"second_moments", state.optimizer.second},
                            {"distillation", state.distillation}};
  const std::string part = options.state_file + ".part";
  std::error_code error;
  {
    std::ofstream file(part, std::ios::binary | std::ios::trunc);
    file << out.dump() << '\n';
    file.flush();
    if (!file) return absl::DataLossError(absl::StrCat(options.state_file, ": cannot be written"));
  }
  std::filesystem::rename(part, options.state_file, error);
  if (error)
    return absl::DataLossError(absl::StrCat(options.state_file, ": cannot be written (", error.message(), ")"));
  return absl::OkStatus();
}

// A list of `count` finite numbers.
std::vector<double> Numbers(const nlohmann::json& object, const char* key, size_t count) {
  std::vector<double> numbers;
  const auto it = object.find(key);
  if (it == object.end() || !it->is_array() || it->size() != count) return numbers;
  for (const nlohmann::json& number : *it) {
    if (!number.is_number()) return {};
    numbers.push_back(number.get<double>());
  }
  return numbers;
}

// The state to go on from: the file's, or a fresh one where there is none.
absl::StatusOr<RunState> Resume(const IdentifyOptions& options, size_t gates) {
  RunState state;
  state.optimizer = GateOptimizer(gates);
  std::error_code error;
  if (options.state_file.empty() || !std::filesystem::exists(options.state_file, error)) return state;
  absl::StatusOr<std::string> text = ReadFile(options.state_file, kMostStateBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<nlohmann::json> object = ParseJsonObject(*text, options.state_file);
  if (!object.ok()) return object.status();
  JsonFields fields(*object, options.state_file);
  const std::string settings = fields.String("settings");
  const int64_t step = fields.Int("step", 0, options.steps);
  state.seconds = fields.Number("seconds", 0, 1e12);
  if (fields.ok() && settings != Settings(options)) {
    return absl::FailedPreconditionError(absl::StrCat(options.state_file, ": holds the run \"", settings,
                                                      "\", asked for is \"", Settings(options),
                                                      "\"; remove the file or choose another --out"));
  }
  if (!fields.ok()) return fields.status();
  state.optimizer.step = static_cast<int>(step);
  state.optimizer.gates = Numbers(*object, "gates", gates);
  state.optimizer.first = Numbers(*object, "first_moments", gates);
  state.optimizer.second = Numbers(*object, "second_moments", gates);
  state.distillation = Numbers(*object, "distillation", static_cast<size_t>(step));
  const bool whole = state.optimizer.gates.size() == gates && state.optimizer.first.size() == gates &&
                     state.optimizer.second.size() == gates && state.distillation.size() == static_cast<size_t>(step);
  if (!whole) {
    return absl::InvalidArgumentError(absl::StrCat(options.state_file, ": expected the state of ", gates,
                                                   " gates, found another; remove the file to start again"));
  }
  return state;
}

// Rank 0's state for all.
void Share(Communicator& comm, size_t gates, RunState* state) {
  if (comm.size() == 1) return;
  GateOptimizer& o = state->optimizer;
  comm.Broadcast(&o.step, sizeof o.step, 0);
  for (std::vector<double>* list : {&o.gates, &o.first, &o.second}) {
    list->resize(gates);
    comm.Broadcast(list->data(), sizeof(double) * gates, 0);
  }
}

}  // namespace

absl::StatusOr<Identified> IdentifyGates(IdentifyModel& model, const PasskeyData& data, const IdentifyOptions& options,
                                         Communicator& comm,
                                         const std::function<bool(const IdentifyProgress&)>& on_step) {
  const auto gates = static_cast<size_t>(model.gates());
  const int ranks = comm.size(), own = CeilDiv(options.samples, ranks);  // samples of a rank, some may be idle
  const size_t stride = gates + 1;                                       // a sample's loss, then its gradient
  absl::StatusOr<RunState> state = RunState();
  if (comm.rank() == 0) state = Resume(options, gates);
  if (absl::Status s = Agree(comm, state.status()); !s.ok()) return s;
  Share(comm, gates, &*state);
  GateOptimizer& optimizer = state->optimizer;
  const double seconds_before = state->seconds;
  const Clock::time_point start = Clock::now();

  std::vector<double> mine(own * stride), all(mine.size() * ranks);
  bool go_on = true;
  while (optimizer.step < options.steps && go_on) {
    std::fill(mine.begin(), mine.end(), 0.0);
    IdentifyProgress progress;
    for (int i = 0; i < own; ++i) {
      const int k = i * ranks + comm.rank();
      if (k >= options.samples) break;
      const int64_t index = int64_t{optimizer.step} * options.samples + k;
      const PasskeySample sample =
          data.Sample(options.seed, index, SampleLength(options.seed, index, options.min_length, options.max_length));
      const GateGradient result = model.LossAndGradient(sample.tokens, sample.first_label, optimizer.gates);
      mine[i * stride] = result.loss;
      std::copy(result.gradient.begin(), result.gradient.end(), mine.begin() + i * stride + 1);
      progress.tokens += static_cast<int64_t>(sample.tokens.size());
    }
    if (ranks == 1) {
      all = mine;
    } else {
      comm.AllGatherHost(all.data(), mine.data(), sizeof(double) * mine.size());
    }
    // In the order of the samples: k = i * ranks + r.
    std::vector<double> gradient(gates, 0.0);
    for (int k = 0; k < options.samples; ++k) {
      const double* sample = all.data() + (k % ranks * own + k / ranks) * stride;
      progress.distillation += sample[0] / options.samples;
      for (size_t g = 0; g < gates; ++g) gradient[g] += sample[g + 1] / options.samples;
    }
    for (size_t g = 0; g < gates; ++g) {
      if (optimizer.gates[g] > 0) gradient[g] += options.reg / static_cast<double>(gates);  // of reg * mean |gate|
    }
    optimizer.Step(gradient, options.rate * ScheduleFactor(optimizer.step, options.steps));
    state->distillation.push_back(progress.distillation);
    progress.step = optimizer.step;
    progress.mean_gate = std::accumulate(optimizer.gates.begin(), optimizer.gates.end(), 0.0) / gates;
    state->seconds = seconds_before + SecondsSince(start);
    go_on = on_step(progress);
    const bool save = optimizer.step % kSaveSteps == 0 || optimizer.step == options.steps || !go_on;
    if (save && !options.state_file.empty()) {
      const absl::Status saved = comm.rank() == 0 ? Save(options, *state) : absl::OkStatus();
      if (absl::Status s = Agree(comm, saved); !s.ok()) return s;
    }
  }
  if (optimizer.step < options.steps) return absl::CancelledError("identification was stopped");
  return Identified{optimizer.gates, state->distillation, state->seconds};
}

}  // namespace duo
