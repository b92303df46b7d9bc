#include "launcher/plan_memory.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/device.h"
#include "kernels/base/math.h"
#include "kernels/kv_codec.h"
#include "launcher/plan_weights.h"
#include "launcher/terminal/format_names.h"
#include "launcher/terminal/progress.h"
#include "parallel/prefill_split.h"
#include "parallel/shard.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/weights/held_weights.h"

namespace duo {

RankMemory MemoryOf(const PlanFlags& flags, const ModelConfig& config, const PartitionRequest& request,
                    const Partition& partition, int per_host) {
  const WeightFormats formats = FormatsOf(flags, config);
  PlannedWeights weights(config, formats);
  const KvFormat format = KvFormatNamed(flags.kv).value_or(KvFormat::kBF16);
  const ExpertGranularity units = {UnitOf(flags, config, config.experts.intermediate, partition.world),
                                   UnitOf(flags, config, config.experts.shared_intermediate, partition.world)};
  RankMemory most;
  int fullest = 0;
  std::vector<int64_t> layers;  // [rank] bytes
  std::vector<std::string> hosts;
  for (int r = 0; r < partition.world; ++r) {
    const RankShard shard = MakeShard(partition, request.shape, r, 1, 1, units);
    layers.push_back(WeightBytes({config, shard, formats, WeightParts::kLayers}));
    hosts.push_back(absl::StrCat(r / per_host));
    const KvUnitBytes unit = UnitBytes(config, shard, request.heads, format);
    int slots = 1;
    for (const std::vector<LocalHead>& layer : shard.layers) {
      for (const LocalHead& head : layer) slots = std::max(slots, head.slots);
    }
    RankMemory rank;
    rank.weights = weights.Bytes(shard);
    rank.kv = unit.page * CeilDiv(request.context, int64_t{kPageTokens}) +
              unit.split_page * CeilDiv(request.context, int64_t{kPageTokens} * slots) + unit.ring;
    if (rank.total() <= most.total()) continue;
    most = rank;
    fullest = r;
  }
  RankShard whole = MakeShard(partition, request.shape, 0, 1, 1, units);
  whole.vocab = {0, config.vocab};
  most.peers = WeightBytes({config, whole, formats, WeightParts::kEmbedding});
  for (const int peer : RowGroupsOf(hosts, partition.shares, fullest).peers) {
    if (peer != fullest) most.peers += layers[peer];
  }
  most.gpu = flags.gpu_memory;
  if (most.gpu == 0 && Device::CudaDeviceCount() > 0) {
    if (absl::StatusOr<std::unique_ptr<Device>> gpu = Device::Cuda(0, 1); gpu.ok()) most.gpu = (*gpu)->info().memory;
  }
  return most;
}

std::string Describe(const RankMemory& memory, const std::string& formats, int64_t context) {
  std::string text = absl::StrFormat("memory of the fullest rank: weights %s (%s) + KV cache %s for %s tokens",
                                     ByteCount(static_cast<double>(memory.weights)), formats,
                                     ByteCount(static_cast<double>(memory.kv)), Grouped(context));
  if (memory.gpu == 0) return absl::StrCat(text, " (--gpu-memory 80GB says whether it fits)\n");
  return absl::StrFormat("%s: %s %s\n", text, memory.fits() ? "fits" : "does NOT fit",
                         ByteCount(static_cast<double>(memory.gpu)));
}

}  // namespace duo
