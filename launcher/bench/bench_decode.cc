// `duo bench decode`: the time of one decode step with the cache filled to a length by random codes.

#include <chrono>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "launcher/bench/bench.h"
#include "launcher/bench/simulated_rank.h"
#include "launcher/progress.h"

namespace duo {
namespace {

using Clock = std::chrono::steady_clock;

absl::StatusOr<Measurement> DecodeRow(const BenchFlags& flags, Engine& engine, const std::string& attention,
                                      int64_t context, const Rates& rates, int world) {
  constexpr int kWarm = 4;
  absl::StatusOr<double> error = VerifyEngine(engine);
  if (!error.ok()) return error.status();
  absl::StatusOr<SessionId> session = engine.CreateFilledSession(context, context + flags.steps + kWarm + 2);
  if (!session.ok()) return session.status();
  GenerateParams params;
  params.max_new_tokens = flags.steps + kWarm;
  params.keep = true;
  RequestResult result;
  RequestEvents events;
  events.on_done = [&](const RequestResult& done) { result = done; };
  absl::StatusOr<RequestId> ask = engine.Ask(*session, {1}, params, events);
  if (!ask.ok()) return ask.status();
  std::vector<double> seconds;
  while (true) {
    const auto start = Clock::now();
    if (!engine.Step()) break;
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  if (!result.status.ok()) return result.status;
  seconds.erase(seconds.begin(), seconds.begin() + std::min<size_t>(kWarm, seconds.size()));
  Measurement row;
  row.what = absl::StrCat("decode ", attention, " kv ", Name(engine.kv_format()));
  row.context = context;
  row.seconds = Median(seconds);
  const double kv = static_cast<double>(engine.KvBytes(context)) / world;
  const auto weights = static_cast<double>(engine.DecodeWeightBytes());
  row.floor_seconds = (weights + kv) / rates.copy;
  row.details = {{"verified_error", *error},
                 {"weights_gb", weights / 1e9},
                 {"kv_gb", kv / 1e9},
                 {"plan_gib", static_cast<double>(engine.memory_plan().total()) / 0x1p30},
                 {"retrieval_heads", engine.heads().retrieval_heads()},
                 {"streaming_heads", engine.heads().streaming_heads()},
                 {"fastest_seconds", *std::min_element(seconds.begin(), seconds.end())},
                 {"slowest_seconds", *std::max_element(seconds.begin(), seconds.end())}};
  return row;
}

}  // namespace

absl::Status BenchDecode(const BenchFlags& flags, const Launch& launch, Runtime& runtime) {
  const Rates rates = RatesOf(*runtime.device);
  std::vector<Measurement> rows;
  int rank = 0, world = runtime.comm->size();
  if (!flags.simulate.empty()) {
    if (std::sscanf(flags.simulate.c_str(), "%d/%d", &rank, &world) != 2 || rank < 0 || world < 1 || rank >= world) {
      return absl::InvalidArgumentError("--simulate-rank wants r/N with 0 <= r < N, for example 0/4");
    }
    runtime.comm = std::make_unique<SimulatedRank>(world);
  }
  for (int64_t context : flags.contexts) {
    for (const std::string& attention : flags.attentions) {
      absl::StatusOr<EngineOptions> options = BenchEngine(flags, launch, attention, context + flags.steps + 1024);
      if (!options.ok()) return options.status();
      options->act_as_rank = rank;
      if (options->chunk == 0) options->chunk = 512;
      absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, *options, runtime);
      if (!engine.ok()) return engine.status();
      if (!runtime.leader()) {
        (*engine)->Follow();
        continue;
      }
      absl::StatusOr<Measurement> row = DecodeRow(flags, **engine, attention, context, rates, world);
      if (!row.ok()) return row.status();
      if (!flags.simulate.empty()) absl::StrAppend(&row->what, " rank ", flags.simulate);
      rows.push_back(*row);
    }
  }
  if (runtime.leader()) PrintRows(flags, runtime, rates, rows, "decode");
  return absl::OkStatus();
}

}  // namespace duo
