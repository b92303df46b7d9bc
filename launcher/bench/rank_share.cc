#include "launcher/bench/rank_share.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/seconds.h"

namespace duo {

absl::StatusOr<std::vector<double>> TimeDecodeSteps(const BenchFlags& flags, Engine& engine, int64_t context,
                                                    const std::function<void()>& after) {
  constexpr int kWarm = 4;
  absl::StatusOr<SessionId> session =
      EngineProbe(engine).CreateFilledSession(context, context + flags.steps + kWarm + 2);
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
  for (int step = 0;; ++step) {
    const Clock::time_point start = Clock::now();
    if (!engine.Step()) break;
    if (step < kWarm) continue;
    seconds.push_back(SecondsSince(start));
    after();
  }
  if (!result.status.ok()) return result.status;
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
      TimeDecodeSteps(flags, **engine, context, [&] { steps.push_back(comm.LayerTimes(device)); });
  if (!seconds.ok()) return seconds.status();
  DecodeShare share;
  share.heads = (*engine)->heads();
  share.kv = (*engine)->kv_format();
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
  for (const double seconds : busy) wait.push_back(row->seconds - seconds);
  const double mean = std::accumulate(busy.begin(), busy.end(), 0.0) / comm.size();
  row->details["rank_busy_seconds"] = busy;
  row->details["rank_wait_seconds"] = wait;
  row->details["busy_balance"] = *std::max_element(busy.begin(), busy.end()) / mean;
  return absl::OkStatus();
}

}  // namespace duo
