// `duo bench decode`: the time of one decode step with the cache filled to a length by random codes; of several ranks
// also how long each was busy with its own share and how long it waited.

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "launcher/bench/bench.h"
#include "launcher/bench/rank_share.h"
#include "launcher/terminal/progress.h"

namespace duo {
namespace {

struct DecodeCase {
  std::string attention;
  int64_t context = 0;
  StepCompany company;
  int world = 1;
  double copy_rate = 0;     // bytes a second
  int64_t free_before = 0;  // of the device's memory
  bool simulated = false;   // one rank's share alone
};

// A simulated rank has its own piece of a split head and no other. A chunk's own keys are all on one rank, a row's are
// on all: what the two see then differs, and comparing them says nothing.
bool LacksPieces(const Engine& engine, bool simulated) {
  const std::vector<std::vector<RankHeads>>& layers = engine.partition().layers;
  return simulated && std::any_of(layers.begin(), layers.end(), [](const auto& l) { return !SplitHeads(l).empty(); });
}

// Steps of one row, then those with company.
std::vector<StepCompany> Companies(const BenchFlags& flags) {
  std::vector<StepCompany> all;
  if (flags.forks.front() == 1 || flags.rows.front() == 1) all.push_back({});
  for (int forks : flags.forks) {
    if (forks > 1) all.push_back({forks, 1});
  }
  for (int rows : flags.rows) {
    if (rows > 1) all.push_back({1, rows});
  }
  return all;
}

// Of whole cycles of dense and listed steps, if there is one.
double MeanOfCycles(const std::vector<double>& seconds) {
  const auto cycles = static_cast<ptrdiff_t>(seconds.size() / kDenseEvery * kDenseEvery);
  const auto end = cycles > 0 ? seconds.begin() + cycles : seconds.end();
  return std::accumulate(seconds.begin(), end, 0.0) / static_cast<double>(end - seconds.begin());
}

// What lists held. The cache's random codes spread attention evenly, so a target is about the share of pages that it
// takes: it stands for a density here, and what lists keep says nothing.
void AddLists(const Engine& engine, const std::vector<double>& seconds, Measurement* row) {
  const DecodeReport& lists = engine.counted().decode;
  absl::StrAppend(&row->what, " decode sparsity ", Name(engine.decode_sparsity()));
  row->details["listed_tokens"] = lists.listed_tokens;
  row->details["list_choices"] = lists.choices;
  row->details["list_density"] = lists.density;
  row->details["listed_step_seconds"] = Median(seconds);
}

absl::StatusOr<Measurement> DecodeRow(const BenchFlags& flags, Engine& engine, const DecodeCase& c, Device& device,
                                      const std::function<void()>& stepped) {
  std::optional<EngineCheck> check;
  if (!LacksPieces(engine, c.simulated)) {
    absl::StatusOr<EngineCheck> verified = VerifyEngine(engine);
    if (!verified.ok()) return verified.status();
    check = *verified;
  }
  RouteReport routes;
  const ExpertsConfig& experts = engine.config().experts;
  absl::StatusOr<std::vector<double>> timed =
      TimeDecodeSteps(flags, engine, c.context, c.company, stepped, experts.count > 0 ? &routes : nullptr);
  if (!timed.ok()) return timed.status();
  const std::vector<double>& seconds = *timed;
  Measurement row;
  row.what = absl::StrCat("decode ", c.attention, " kv ", Name(engine.kv_format()));
  if (c.company.forks > 1) absl::StrAppend(&row.what, " forks ", c.company.forks);
  if (c.company.rows > 1) absl::StrAppend(&row.what, " rows ", c.company.rows);
  row.context = c.context;
  row.seconds = flags.runtime.decode_sparsity == "off" ? Median(seconds) : MeanOfCycles(seconds);
  const double kv = static_cast<double>(engine.KvBytes(c.context)) / c.world;
  if (experts.count > 0 && routes.layers == 0) return absl::InternalError("no step's experts were counted");
  const auto weights = static_cast<double>(
      EngineProbe(engine).DecodeWeightBytes(experts.count > 0 ? std::optional<double>(routes.distinct) : std::nullopt));
  row.floor_seconds = (weights + kv) / c.copy_rate;
  if (check.has_value()) row.details["verified_error"] = check->error;
  row.details.update(nlohmann::ordered_json{{"weights_gb", weights / 1e9},
                                            {"kv_gb", kv / 1e9},
                                            {"plan_gib", static_cast<double>(engine.memory_plan().total()) / 0x1p30},
                                            {"retrieval_heads", engine.heads().retrieval_heads()},
                                            {"streaming_heads", engine.heads().streaming_heads()},
                                            {"fastest_seconds", *std::min_element(seconds.begin(), seconds.end())},
                                            {"slowest_seconds", *std::max_element(seconds.begin(), seconds.end())}});
  if (experts.count > 0) {
    if (check.has_value()) row.details["router_error"] = check->router_error;
    row.details["experts"] = experts.count;
    row.details["distinct_experts"] = routes.distinct;  // mean over the layers of a step, counted
    row.details["fewest_distinct_experts"] = routes.fewest;
    // Of whole experts a rank alone has the mean number of chosen ones, where a layer waits for the one with most.
    if (c.world > 1) row.details["whole_experts"] = engine.partition().whole_experts;
  }
  if (engine.decode_sparsity().on()) AddLists(engine, seconds, &row);
  // On a CPU the free memory is the whole system's: it says nothing of this process.
  if (device.is_cuda()) row.details["driver_gib"] = static_cast<double>(c.free_before - device.FreeMemory()) / 0x1p30;
  return row;
}

}  // namespace

absl::Status BenchDecode(const BenchFlags& flags, const Launch& launch, Runtime& runtime) {
  Device& device = *runtime.device;
  const Rates rates = RatesOf(device);
  std::vector<Measurement> rows;
  int rank = 0, world = runtime.comm->size();
  const absl::StatusOr<ModelConfig> config = BenchModel(flags);
  if (!config.ok()) return config.status();
  if (!flags.simulate.empty()) {
    if (std::sscanf(flags.simulate.c_str(), "%d/%d", &rank, &world) != 2 || rank < 0 || world < 1 || rank >= world) {
      return absl::InvalidArgumentError("--simulate-rank wants r/N with 0 <= r < N, for example 0/4");
    }
    runtime.comm = std::make_unique<SimulatedRank>(world, config->layers, device);
  }
  const std::vector<StepCompany> companies = Companies(flags);
  const int most_forks = *std::max_element(flags.forks.begin(), flags.forks.end());
  const auto most_tokens = [&](int64_t context) {
    int64_t most = 0;
    for (const StepCompany& company : companies) most = std::max(most, StepTokens(flags, context, company));
    return most + 1024;
  };
  const auto steps =
      static_cast<int64_t>(flags.contexts.size() * flags.attentions.size() * companies.size()) * flags.steps;
  int64_t done = 0;
  Progress progress("timing", "steps", !runtime.leader());
  const auto stepped = [&] { progress.Update(++done, steps); };
  for (int64_t context : flags.contexts) {
    for (const std::string& attention : flags.attentions) {
      absl::StatusOr<ProbeOptions> options = BenchEngine(flags, launch, attention, most_tokens(context));
      if (!options.ok()) return options.status();
      options->act_as_rank = rank;
      options->questions = most_forks;
      if (options->chunk == 0) options->chunk = 256;  // so short that prefill's plans are not built beside
      const int64_t free_before = device.FreeMemory();
      absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, *options, runtime);
      if (!engine.ok()) return engine.status();
      absl::Status status;
      std::vector<Measurement> here;
      if (runtime.leader()) {
        for (const StepCompany& company : companies) {
          absl::StatusOr<Measurement> row = DecodeRow(
              flags, **engine, {attention, context, company, world, rates.copy, free_before, !flags.simulate.empty()},
              device, stepped);
          status.Update(row.status());
          if (!status.ok()) break;
          here.push_back(*std::move(row));
        }
      } else {
        (*engine)->Follow();
        here.resize(companies.size());
      }
      engine->reset();  // ends the followers' loop, and makes room
      if (absl::Status s = Agree(*runtime.comm, status); !s.ok()) return s;
      if (!flags.simulate.empty()) {
        for (Measurement& row : here) absl::StrAppend(&row.what, " rank ", flags.simulate);
      } else if (world > 1) {  // of the first company, a rank's share alone
        const absl::StatusOr<DecodeShare> share =
            TimeDecodeShare(flags, *options, *config, device, context, {runtime.comm->rank(), world});
        const absl::StatusOr<double> alone = share.ok() ? absl::StatusOr<double>(share->step_seconds) : share.status();
        if (absl::Status s = AddRankTimes(*runtime.comm, alone, &here.front()); !s.ok()) return s;
      }
      rows.insert(rows.end(), here.begin(), here.end());
    }
  }
  progress.Done();
  if (runtime.leader()) PrintRows(flags, runtime, rates, rows, "decode");
  return absl::OkStatus();
}

}  // namespace duo
