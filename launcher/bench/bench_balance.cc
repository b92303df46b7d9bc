// `duo bench balance`: what the busiest rank of each layer takes, measured on one device, beside the planner's model.
// Every rank's share of a decode step is timed alone, one after another, half layer by half layer; since each half ends
// in an all-reduce, N ranks would take the sum over all halves of the busiest one's time, and messages.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "launcher/bench/rank_share.h"
#include "launcher/terminal/progress.h"
#include "parallel/partition.h"
#include "runtime/weights/cut_unit.h"
#include "runtime/weights/model_shape.h"

namespace duo {
namespace {

struct BalanceCase {
  int64_t context = 0;
  int world = 1;
};

// The planner's seconds of all layers' busiest ranks on such a device, without messages.
absl::StatusOr<double> Modelled(const BenchFlags& flags, const ProbeOptions& options, const ModelConfig& config,
                                const Device& device, const DecodeShare& share, BalanceCase of) {
  PartitionRequest request;
  request.rates = RatesOfGpu(device.info().name);
  request.shape = ShapeOf(config);
  request.heads = share.heads;
  request.world = of.world;
  request.rank_weights = flags.runtime.rank_weights;
  request.kv_token_bytes = KvTokenBytes(share.kv, config.head_dim);
  request.weight_bits = share.weight_bits;
  request.strategy = options.strategy;
  request.experts = options.experts;
  request.expert_unit =
      CutUnit(config.quantization, {options.weights, options.int8_group, !options.mixed_weights.empty()},
              config.experts.intermediate, of.world);
  const absl::StatusOr<Partition> partition = MakePartition(request);  // aims where the engine's does
  if (!partition.ok()) return partition.status();
  request.context = of.context;
  CostModel model = MakeCostModel(request);
  model.rates.message_seconds = model.rates.message_rank_seconds = 0;
  model.rates.link = INFINITY;
  double seconds = 0;
  for (const std::vector<RankHeads>& layer : partition->layers)
    seconds += LayerSeconds(model, layer, partition->shares);
  return seconds;
}

absl::StatusOr<Measurement> BalanceRow(const BenchFlags& flags, const ProbeOptions& options, const ModelConfig& config,
                                       Device& device, int64_t context, int world, const std::function<void()>& next) {
  std::vector<LayerTime> busiest(config.layers);
  nlohmann::ordered_json attention = nlohmann::ordered_json::array(), feed_forward = attention, steps = attention;
  double modelled = 0;
  for (int rank = 0; rank < world; ++rank) {
    next();
    const absl::StatusOr<DecodeShare> share = TimeDecodeShare(flags, options, config, device, context, {rank, world});
    if (!share.ok()) return share.status();
    if (rank == 0) {
      const absl::StatusOr<double> seconds = Modelled(flags, options, config, device, *share, {context, world});
      if (!seconds.ok()) return seconds.status();
      modelled = *seconds;
    }
    nlohmann::ordered_json own_attention = nlohmann::ordered_json::array(), own_feed_forward = own_attention;
    for (int l = 0; l < config.layers; ++l) {
      busiest[l].attention = std::max(busiest[l].attention, share->layers[l].attention);
      busiest[l].feed_forward = std::max(busiest[l].feed_forward, share->layers[l].feed_forward);
      own_attention.push_back(share->layers[l].attention);
      own_feed_forward.push_back(share->layers[l].feed_forward);
    }
    attention.push_back(own_attention);
    feed_forward.push_back(own_feed_forward);
    steps.push_back(share->step_seconds);
  }
  Measurement row;
  row.what = absl::StrCat(world, " ranks ", Name(options.strategy));
  row.context = context;
  for (const LayerTime& layer : busiest) row.seconds += layer.attention + layer.feed_forward;
  row.details = {{"world", world},
                 {"strategy", Name(options.strategy)},
                 {"experts", Name(options.experts)},
                 {"modelled_seconds", modelled},
                 {"modelled_over_measured", modelled / row.seconds},
                 {"rank_step_seconds", steps},
                 {"attention_seconds", attention},         // [rank][layer]
                 {"feed_forward_seconds", feed_forward}};  // [rank][layer]
  return row;
}

}  // namespace

absl::Status BenchBalance(const BenchFlags& flags, const Launch& launch, Runtime& runtime) {
  if (runtime.comm->size() > 1) {
    return absl::InvalidArgumentError("bench balance plays every rank on one device: run it without mpirun");
  }
  const absl::StatusOr<ModelConfig> config = BenchModel(flags);
  if (!config.ok()) return config.status();
  std::vector<Measurement> rows;
  const auto shares = static_cast<int64_t>(flags.contexts.size() * flags.attentions.size() * flags.strategies.size()) *
                      std::accumulate(flags.worlds.begin(), flags.worlds.end(), int64_t{0});
  int64_t done = 0;
  Progress progress("timing", "shares", false);
  const auto next = [&] { progress.Update(done++, shares); };
  for (const int64_t context : flags.contexts) {
    for (const std::string& attention : flags.attentions) {
      for (const int world : flags.worlds) {
        for (const std::string& strategy : flags.strategies) {
          absl::StatusOr<ProbeOptions> options = BenchEngine(flags, launch, attention, context + flags.steps + 1024);
          if (!options.ok()) return options.status();
          options->strategy = *ParseStrategy(strategy);
          if (options->chunk == 0) options->chunk = 256;  // as in bench decode
          absl::StatusOr<Measurement> row = BalanceRow(flags, *options, *config, *runtime.device, context, world, next);
          if (!row.ok()) return row.status();
          row->what = absl::StrCat(attention, " ", row->what);
          rows.push_back(*row);
        }
      }
    }
  }
  progress.Done();
  if (flags.json) {
    PrintRows(flags, runtime, RatesOf(*runtime.device), rows, "balance");
    return absl::OkStatus();
  }
  std::printf("the busiest rank's decode work, all layers, on %s\n%-26s %12s %12s %12s %9s\n",
              runtime.device->info().name.c_str(), "", "tokens", "measured", "modelled", "ratio");
  for (const Measurement& row : rows) {
    std::printf("%-26s %12s %9.3f ms %9.3f ms %9.2f\n", row.what.c_str(), Grouped(row.context).c_str(),
                row.seconds * 1e3, row.details["modelled_seconds"].get<double>() * 1e3,
                row.details["modelled_over_measured"].get<double>());
  }
  return absl::OkStatus();
}

}  // namespace duo
