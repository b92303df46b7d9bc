// `duo bench capacity`: the longest document that fits by the memory plan, and the proof that it does: a session filled
// to just short of it with random codes, the last 8,192 tokens really read, 64 tokens decoded, the most memory that the
// driver saw in use, and one layer's decode attention against plain attention on the same pages.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "kernels/kv_layout.h"
#include "launcher/bench/bench.h"
#include "launcher/terminal/progress.h"

namespace duo {
namespace {

constexpr int64_t kRead = 8192, kDecoded = 64;  // and one token between them, the question

// The options with the largest session that the plan and the model's positions admit. A longer session needs longer
// tables and more scratch, so the plan is made again for what the one before left room for, until nothing changes.
absl::StatusOr<ProbeOptions> Largest(const BenchFlags& flags, const Launch& launch, const std::string& attention,
                                     Runtime& runtime) {
  absl::StatusOr<ModelConfig> model = BenchModel(flags);
  if (!model.ok()) return model.status();
  int64_t longest = MaxPositions(*model);
  if (flags.most > 0) longest = std::min(longest, flags.most);
  if (longest < 2 * kRead) {
    return absl::InvalidArgumentError(absl::StrFormat("bench capacity needs room for %d tokens, %s %d", 2 * kRead,
                                                      flags.most == longest ? "--most is" : "the model's positions are",
                                                      longest));
  }
  int64_t tokens = 0;
  for (int round = 0; round < 8; ++round) {
    absl::StatusOr<ProbeOptions> options = BenchEngine(flags, launch, attention, tokens);
    if (!options.ok()) return options;
    options->kv_tokens = 0;
    if (tokens == 0) options->max_session_tokens = longest;
    if (options->chunk == 0 && runtime.device->is_cuda()) options->chunk = kRead;
    absl::StatusOr<MemoryPlan> plan = EngineProbe::PlanMemory(*options, *runtime.device, *runtime.comm);
    if (!plan.ok()) return plan.status();
    const int64_t next = std::min(plan->kv_tokens, options->max_session_tokens) / kPageTokens * kPageTokens;
    if (next == tokens) {
      options->max_session_tokens = options->kv_tokens = tokens;
      return options;
    }
    tokens = next;
    if (tokens < 2 * kRead) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("only %d tokens fit beside the weights; --weights int8 or int4, or --kv int4, make room",
                          static_cast<int>(tokens)));
    }
  }
  return absl::InternalError("the memory plan does not settle");
}

absl::StatusOr<Measurement> Prove(Engine& engine, Runtime& runtime, int64_t free_before, int64_t tokens,
                                  const Rates& rates) {
  Device& device = *runtime.device;
  int64_t least_free = free_before;
  absl::StatusOr<SessionId> session = EngineProbe(engine).CreateFilledSession(tokens - kRead - kDecoded - 1, tokens);
  if (!session.ok()) return session.status();
  absl::Status status;
  auto run = [&](std::vector<double>* steps) {
    while (true) {
      const Clock::time_point start = Clock::now();
      if (!engine.Step()) break;
      if (steps != nullptr) steps->push_back(SecondsSince(start));
      least_free = std::min(least_free, device.FreeMemory());
    }
  };
  RequestEvents events;
  events.on_done = [&](const RequestResult& done) { status.Update(done.status); };
  std::vector<int32_t> text(kRead);
  for (int64_t i = 0; i < kRead; ++i) text[i] = static_cast<int32_t>((i * 2654435761u + 12345) % engine.config().vocab);
  Progress progress("reading the last", "tokens", false);
  events.on_progress = [&](int64_t done, int64_t total) { progress.Update(done, total); };
  if (auto append = engine.Append(*session, std::move(text), events); !append.ok()) return append.status();
  const Clock::time_point start = Clock::now();
  run(nullptr);
  progress.Done();
  events.on_progress = nullptr;
  const double read_seconds = SecondsSince(start);
  GenerateParams params;
  params.max_new_tokens = kDecoded;
  params.keep = true;
  if (auto ask = engine.Ask(*session, {1}, params, events); !ask.ok()) return ask.status();
  std::vector<double> steps;
  run(&steps);
  if (!status.ok()) return status;
  absl::StatusOr<SessionInfo> info = engine.Get(*session);
  if (!info.ok()) return info.status();
  absl::StatusOr<double> error = EngineProbe(engine).CompareWithPlainAttention(*session);
  if (!error.ok()) return error.status();
  // The fast kernels round weights and outputs to 16 bits: 2^-9 each, so a few of these.
  if (!(*error <= 0.01)) {
    return absl::InternalError(absl::StrFormat(
        "decode attention differs from plain attention on the same pages by %.3g (relative L2)", *error));
  }
  Measurement row;
  row.context = info->tokens;
  steps.erase(steps.begin(), steps.begin() + std::min<size_t>(4, steps.size()));
  row.seconds = Median(steps);
  const auto weights = static_cast<double>(EngineProbe(engine).DecodeWeightBytes());
  const double kv = static_cast<double>(engine.KvBytes(info->tokens)) / runtime.comm->size();
  row.floor_seconds = (weights + kv) / rates.copy;
  const MemoryPlan& plan = engine.memory_plan();
  row.details = {{"capacity_tokens", tokens},
                 {"plan", Describe(plan)},
                 {"plan_gib", static_cast<double>(plan.total()) / 0x1p30},
                 {"workspace_gib", static_cast<double>(plan.workspace) / 0x1p30},
                 {"device_gib", static_cast<double>(device.info().memory) / 0x1p30},
                 {"least_free_gib", static_cast<double>(least_free) / 0x1p30},
                 {"weights_gb", weights / 1e9},
                 {"kv_gb", kv / 1e9},
                 {"read_8192_seconds", read_seconds},
                 {"plain_attention_error", *error}};
  // On a CPU the free memory is the whole system's: it says nothing of this process.
  if (device.is_cuda()) row.details["driver_gib"] = static_cast<double>(free_before - least_free) / 0x1p30;
  return row;
}

}  // namespace

absl::Status BenchCapacity(const BenchFlags& flags, const Launch& launch, Runtime& runtime) {
  const Rates rates = RatesOf(*runtime.device);
  std::vector<Measurement> rows;
  for (const std::string& attention : flags.attentions) {
    const int64_t free_before = runtime.device->FreeMemory();
    absl::StatusOr<ProbeOptions> options = Largest(flags, launch, attention, runtime);
    if (!options.ok()) return options.status();
    const int64_t tokens = options->max_session_tokens;
    absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, *options, runtime);
    if (!engine.ok()) return engine.status();
    if (!runtime.leader()) {
      (*engine)->Follow();
      continue;
    }
    absl::StatusOr<Measurement> row = Prove(**engine, runtime, free_before, tokens, rates);
    if (!row.ok()) return row.status();
    row->what = absl::StrCat("decode ", attention, " kv ", Name((*engine)->kv_format()));
    rows.push_back(*row);
  }
  if (runtime.leader()) PrintRows(flags, runtime, rates, rows, "capacity");
  return absl::OkStatus();
}

}  // namespace duo
