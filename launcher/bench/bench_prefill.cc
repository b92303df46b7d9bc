// `duo bench prefill`: reading a document of random tokens, whole, or sampled: the time of a chunk is affine in the
// history before it, so chunks timed at five histories on a filled cache, integrated, give the whole. Of several ranks
// also how long each was busy with its own share and how long it waited.

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "kernels/machine_rates.h"
#include "launcher/bench/rank_share.h"
#include "launcher/terminal/progress.h"
#include "parallel/prefill_split.h"
#include "runtime/weights/held_weights.h"

namespace duo {
namespace {

std::vector<int32_t> RandomTokens(int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>((i * 2654435761u + 12345) % vocab);
  return tokens;
}

// Seconds of appending `tokens` tokens to a session.
absl::StatusOr<double> TimeAppend(Engine& engine, SessionId session, int64_t tokens, bool quiet) {
  Progress progress("prefill", "tokens", quiet);
  absl::Status status;
  RequestEvents events;
  events.on_progress = [&](int64_t done, int64_t total) { progress.Update(done, total); };
  events.on_done = [&](const RequestResult& result) { status = result.status; };
  absl::StatusOr<RequestId> append = engine.Append(session, RandomTokens(tokens, engine.config().vocab), events);
  if (!append.ok()) return append.status();
  const Clock::time_point start = Clock::now();
  while (engine.Step()) {
  }
  if (!status.ok()) return status;
  return SecondsSince(start);
}

absl::StatusOr<double> Whole(Engine& engine, int64_t context, bool quiet, SparseReport* sparse = nullptr) {
  if (absl::Status s = engine.WarmUp(); !s.ok()) return s;
  absl::StatusOr<SessionId> session = engine.CreateSession(context);
  if (!session.ok()) return session.status();
  absl::StatusOr<double> seconds = TimeAppend(engine, *session, context, quiet);
  if (sparse != nullptr) *sparse = engine.Get(*session)->sparse;
  return seconds;
}

absl::StatusOr<double> Sampled(Engine& engine, int64_t context, int chunk, bool quiet,
                               nlohmann::ordered_json* details) {
  constexpr int kPoints = 5;
  std::vector<double> seconds;
  if (absl::Status s = engine.WarmUp(); !s.ok()) return s;
  for (int point = 0; point < kPoints; ++point) {
    // From the first chunk to the document's last one, in whole pages.
    const int64_t history = std::max<int64_t>(0, (context - chunk) * point / (kPoints - 1) / kPageTokens * kPageTokens);
    absl::StatusOr<SessionId> session =
        history == 0 ? engine.CreateSession(chunk) : EngineProbe(engine).CreateFilledSession(history, history + chunk);
    if (!session.ok()) return session.status();
    absl::StatusOr<double> time = TimeAppend(engine, *session, chunk, quiet);
    if (!time.ok()) return time;
    if (absl::Status s = engine.CloseSession(*session); !s.ok()) return s;
    seconds.push_back(*time);
  }
  // The trapezoid rule is exact for what is affine between the points.
  double mean = 0;
  for (int i = 0; i + 1 < kPoints; ++i) mean += (seconds[i] + seconds[i + 1]) / 2 / (kPoints - 1);
  (*details)["chunk_seconds"] = seconds;
  return mean * static_cast<double>(context) / chunk;
}

// The CPU's own yardsticks: duo's GEMM against the library's at the model's largest shape.
void AddCpuRates(Device& device, const ModelConfig& config, int chunk, nlohmann::ordered_json* details) {
  const int64_t outs = 2 * config.intermediate, cols = config.hidden;
  const double library = MeasureLibraryGemmRate(device, chunk, outs, cols),
               own = MeasureLinearRate(device, chunk, outs, cols);
  (*details)["library_gemm_gflops"] = library / 1e9;
  (*details)["own_gemm_gflops"] = own / 1e9;
  (*details)["gemm_share_of_library"] = own / library;
  const double attention = MeasureAttentionRate(device, config.head_dim, config.heads / config.kv_heads, chunk, 8192);
  (*details)["attention_gflops"] = attention / 1e9;
  (*details)["attention_share_of_fma"] = attention / MeasureFmaRate(device);
}

struct PrefillCase {
  std::string attention;
  int64_t context = 0;
  int chunk = 0, world = 1;
};

absl::StatusOr<Measurement> PrefillRow(const BenchFlags& flags, Engine& engine, const PrefillCase& of,
                                       const Rates& rates) {
  const auto& [attention, context, chunk, world] = of;
  Measurement row;
  row.what = absl::StrCat("prefill ", attention, " kv ", Name(engine.kv_format()), flags.sample ? " sampled" : "");
  row.context = context;
  absl::StatusOr<EngineCheck> check = VerifyEngine(engine);
  if (!check.ok()) return check.status();
  row.details = {{"verified_error", check->error}, {"chunk", chunk}};
  SparseReport sparse;
  absl::StatusOr<double> seconds =
      flags.sample ? Sampled(engine, context, chunk, false, &row.details) : Whole(engine, context, false, &sparse);
  if (!seconds.ok()) return seconds.status();
  row.seconds = *seconds;
  const ModelConfig& c = engine.config();
  const double d = c.head_dim, n = static_cast<double>(context);
  const double parameters = static_cast<double>(TokenMatrixElements(c));
  const double retrieval = static_cast<double>(engine.heads().retrieval_heads()) / (c.layers * c.kv_heads);
  row.floor_seconds =
      (2 * parameters * n / rates.gemm + 2.0 * c.layers * c.heads * d * n * n * retrieval / rates.attention) / world;
  row.details["tokens_per_second"] = n / *seconds;
  if (engine.prefill_sparsity().on()) {
    absl::StrAppend(&row.what, " prefill sparsity ", Name(engine.prefill_sparsity()));
    row.details["density"] = sparse.density;
    row.details["audits"] = sparse.audits;
  }
  if (world > 1) {
    row.details["prefill_split"] =
        Name(engine.memory_plan().peer_shards > 0 ? PrefillSplit::kRows : PrefillSplit::kHeads);
  }
  row.details["plan_gib"] = static_cast<double>(engine.memory_plan().total()) / 0x1p30;
  return row;
}

// This rank's share of the same, alone.
absl::StatusOr<double> ShareSeconds(const BenchFlags& flags, ProbeOptions options, const ModelConfig& config,
                                    Device& device, int64_t context, RankOf of) {
  options.act_as_rank = of.rank;
  SimulatedRank alone(of.world, config.layers, device);
  absl::StatusOr<std::unique_ptr<Engine>> engine = EngineProbe::Create(options, device, alone);
  if (!engine.ok()) return engine.status();
  nlohmann::ordered_json unused;
  return flags.sample ? Sampled(**engine, context, options.chunk, true, &unused) : Whole(**engine, context, true);
}

}  // namespace

absl::Status BenchPrefill(const BenchFlags& flags, const Launch& launch, Runtime& runtime) {
  Device& device = *runtime.device;
  const Rates rates = RatesOf(device);
  const int world = runtime.comm->size();
  const absl::StatusOr<ModelConfig> config = BenchModel(flags);
  if (!config.ok()) return config.status();
  std::vector<Measurement> rows;
  for (int64_t context : flags.contexts) {
    for (const std::string& attention : flags.attentions) {
      absl::StatusOr<ProbeOptions> options = BenchEngine(flags, launch, attention, context + 1024);
      if (!options.ok()) return options.status();
      if (options->chunk == 0) options->chunk = device.is_cuda() ? 32768 : 1024;
      options->chunk = static_cast<int>(std::min<int64_t>(options->chunk, context));
      absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, *options, runtime);
      if (!engine.ok()) return engine.status();
      absl::StatusOr<Measurement> row = Measurement();
      if (runtime.leader()) {
        row = PrefillRow(flags, **engine, {attention, context, options->chunk, world}, rates);
      } else {
        (*engine)->Follow();
      }
      // Links that take no time would have `auto` choose otherwise.
      options->prefill_split = (*engine)->memory_plan().peer_shards > 0 ? PrefillSplit::kRows : PrefillSplit::kHeads;
      engine->reset();  // ends the followers' loop, and makes room
      if (absl::Status s = Agree(*runtime.comm, row.status()); !s.ok()) return s;
      if (world > 1) {
        const absl::StatusOr<double> alone =
            ShareSeconds(flags, *options, *config, device, context, {runtime.comm->rank(), world});
        if (absl::Status s = AddRankTimes(*runtime.comm, alone, &*row); !s.ok()) return s;
      }
      if (!device.is_cuda()) AddCpuRates(device, *config, options->chunk, &row->details);
      rows.push_back(*row);
    }
  }
  if (runtime.leader()) PrintRows(flags, runtime, rates, rows, "prefill");
  return absl::OkStatus();
}

}  // namespace duo
