#include "launcher/bench/rank_share.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/seconds.h"

namespace duo {

namespace {

constexpr int kWarm = 4;
constexpr int kWatched = 1;  // step whose experts are counted: one of the first, which are not timed

// Has an engine count the experts of step kWatched.
class ExpertCount {
 public:
  ExpertCount(Engine& engine, RouteReport* routes) : engine_(engine), routes_(routes) {}
  void Before(int step) {
    if (routes_ != nullptr && step == kWatched) EngineProbe(engine_).Watch(RouteWatch::kRecord);
  }
  void After(int step) {
    if (routes_ == nullptr || step != kWatched) return;
    *routes_ = EngineProbe(engine_).Routes();
    EngineProbe(engine_).Watch(RouteWatch::kOff);
  }

 private:
  Engine& engine_;
  RouteReport* routes_;
};

// One token a step of each of the answers to as many questions, each on a fork of the session.
absl::StatusOr<std::vector<double>> TimeAnswers(const BenchFlags& flags, Engine& engine, SessionId session, int forks,
                                                const std::function<void()>& after, ExpertCount count) {
  GenerateParams params;
  params.max_new_tokens = flags.steps + kWarm;
  absl::Status status;
  RequestEvents events;
  events.on_done = [&](const RequestResult& done) { status.Update(done.status); };
  for (int i = 0; i < forks; ++i) {
    const absl::StatusOr<RequestId> ask = engine.Ask(session, {1 + i}, params, events);
    if (!ask.ok()) return ask.status();
  }
  std::vector<double> seconds;
  for (int step = 0;; ++step) {
    count.Before(step);
    const Clock::time_point start = Clock::now();
    if (!engine.Step()) break;
    count.After(step);
    if (step < kWarm) continue;
    seconds.push_back(SecondsSince(start));
    after();
  }
  if (!status.ok()) return status;
  return seconds;
}

// Appends of so many tokens, each a step.
absl::StatusOr<std::vector<double>> TimeAppends(const BenchFlags& flags, Engine& engine, SessionId session, int rows,
                                                const std::function<void()>& after, ExpertCount count) {
  absl::Status status;
  RequestEvents events;
  events.on_done = [&](const RequestResult& done) { status.Update(done.status); };
  std::vector<double> seconds;
  for (int step = 0; step < flags.steps + kWarm; ++step) {
    const absl::StatusOr<RequestId> append = engine.Append(session, std::vector<int32_t>(rows, 1 + step), events);
    if (!append.ok()) return append.status();
    count.Before(step);
    const Clock::time_point start = Clock::now();
    while (engine.Step()) {
    }
    count.After(step);
    if (!status.ok()) return status;
    if (step < kWarm) continue;
    seconds.push_back(SecondsSince(start));
    after();
  }
  return seconds;
}

}  // namespace

int64_t StepTokens(const BenchFlags& flags, int64_t context, StepCompany company) {
  const int64_t steps = flags.steps + kWarm + 2;
  if (company.forks == 1) return context + steps * company.rows + kPageTokens;
  return context + company.forks * (steps + 2 * kPageTokens);  // each has its last page for itself
}

absl::StatusOr<std::vector<double>> TimeDecodeSteps(const BenchFlags& flags, Engine& engine, int64_t context,
                                                    StepCompany company, const std::function<void()>& after,
                                                    RouteReport* routes) {
  const int64_t most = StepTokens(flags, context, {1, company.rows});
  const absl::StatusOr<SessionId> session = EngineProbe(engine).CreateFilledSession(context, most);
  if (!session.ok()) return session.status();
  const ExpertCount count(engine, routes);
  absl::StatusOr<std::vector<double>> seconds = company.rows > 1
                                                    ? TimeAppends(flags, engine, *session, company.rows, after, count)
                                                    : TimeAnswers(flags, engine, *session, company.forks, after, count);
  if (!seconds.ok()) return seconds;
  if (absl::Status s = engine.CloseSession(*session); !s.ok()) return s;
  return seconds;
}

absl::StatusOr<DecodeShare> TimeDecodeShare(const BenchFlags& flags, ProbeOptions options, const ModelConfig& config,
                                            Device& device, int64_t context, RankOf of) {
  options.act_as_rank = of.rank;
  SimulatedRank comm(of.world, config.layers, device);
  absl::StatusOr<std::unique_ptr<Engine>> engine = EngineProbe::Create(options, device, comm);
  if (!engine.ok()) return engine.status();
  std::vector<std::vector<LayerTime>> steps;
  absl::StatusOr<std::vector<double>> seconds =
      TimeDecodeSteps(flags, **engine, context, {}, [&] { steps.push_back(comm.LayerTimes(device)); });
  if (!seconds.ok()) return seconds.status();
  DecodeShare share;
  share.heads = (*engine)->heads();
  share.kv = (*engine)->kv_format();
  share.weight_bits = EngineProbe(**engine).WeightBits();
  share.step_seconds = Median(*seconds);
  share.layers.resize(steps[0].size());
  for (size_t l = 0; l < share.layers.size(); ++l) {
    std::vector<double> attention, feed_forward;
    for (const std::vector<LayerTime>& step : steps) {
      attention.push_back(step[l].attention);
      feed_forward.push_back(step[l].feed_forward);
    }
    share.layers[l] = {Median(attention), Median(feed_forward)};
  }
  return share;
}

absl::Status AddRankTimes(Communicator& comm, const absl::StatusOr<double>& alone, Measurement* row) {
  if (absl::Status s = Agree(comm, alone.status()); !s.ok()) return s;
  std::vector<double> busy(comm.size()), wait;
  comm.AllGatherHost(busy.data(), &*alone, sizeof(double));
  for (const double seconds : busy) wait.push_back(std::max(0.0, row->seconds - seconds));
  const double mean = std::accumulate(busy.begin(), busy.end(), 0.0) / comm.size();
  row->details["rank_busy_seconds"] = busy;
  row->details["rank_wait_seconds"] = wait;
  row->details["busy_balance"] = *std::max_element(busy.begin(), busy.end()) / mean;
  return absl::OkStatus();
}

}  // namespace duo
