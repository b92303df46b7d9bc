#include "launcher/plan_simulate.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/math.h"
#include "launcher/terminal/progress.h"

namespace duo {

absl::StatusOr<SimulatedWorld> SimulateWorld(PartitionRequest request, int world, int per_host, HostLayout links,
                                             Partition* partition) {
  request.world = world;
  request.hosts = links;
  request.hosts.hosts = CeilDiv(world, per_host);
  absl::StatusOr<Partition> made = MakePartition(request);
  if (!made.ok()) return made.status();
  *partition = *std::move(made);
  SimulatedWorld out;
  out.world = world;
  out.hosts = request.hosts.hosts;
  out.step_seconds = partition->step_seconds;
  out.read_seconds = partition->read_seconds;
  out.read_by_rows_seconds = world > 1 ? ReadByRowsSeconds(MakeCostModel(request), *partition) : out.read_seconds;
  out.mixture = request.shape.experts > 0 && world > 1;
  out.whole_experts = partition->whole_experts;
  for (const std::vector<RankHeads>& layer : partition->layers) out.split_layers += !SplitHeads(layer).empty();
  return out;
}

namespace {

// ", fits" of a memory that is known.
const char* Fits(bool fits, int64_t gpu) { return gpu == 0 ? "" : fits ? ", fits" : ", does NOT fit"; }

}  // namespace

std::string SimulationTable(const std::vector<SimulatedWorld>& worlds, const std::string& assumed, int64_t gpu) {
  std::string out =
      absl::StrCat("modelled for ", assumed,
                   "\ngains over the first row; by rows: reading with --prefill-split rows, for which every host "
                   "holds the whole model (< where it pays)\n\n");
  absl::StrAppendFormat(&out, "%5s %6s %13s %11s %6s %11s %6s %13s  %s\n", "GPUs", "hosts", "split layers", "a step",
                        "gain", "reading", "gain", "by rows", "memory of the fullest GPU");
  for (const SimulatedWorld& w : worlds) {
    absl::StrAppendFormat(&out, "%5d %6d %13d %8.2f ms %6.2f %9.1f s %6.2f ", w.world, w.hosts, w.split_layers,
                          w.step_seconds * 1e3, worlds.front().step_seconds / w.step_seconds, w.read_seconds,
                          worlds.front().read_seconds / w.read_seconds);
    absl::StrAppend(&out, w.world == 1
                              ? std::string(13, ' ')
                              : absl::StrFormat("%9.1f s %s", w.read_by_rows_seconds, w.reads_by_rows() ? "<" : " "));
    absl::StrAppend(&out, "  ", ByteCount(static_cast<double>(w.weights + w.kv)), Fits(w.fits, gpu));
    if (w.world > 1) {
      absl::StrAppend(&out, "; by rows ", ByteCount(static_cast<double>(w.weights_by_rows + w.kv)),
                      Fits(w.fits_by_rows, gpu));
    }
    absl::StrAppend(&out, w.whole_experts ? ", experts whole\n" : "\n");
  }
  return out;
}

std::string SimulationJson(const std::vector<SimulatedWorld>& worlds, const PartitionRequest& request,
                           const SimulatedHosts& hosts, int64_t gpu) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const SimulatedWorld& w : worlds) {
    nlohmann::ordered_json row = {{"world", w.world},
                                  {"hosts", w.hosts},
                                  {"split_layers", w.split_layers},
                                  {"step_seconds", w.step_seconds},
                                  {"read_seconds", w.read_seconds},
                                  {"memory", {{"weights", w.weights}, {"kv", w.kv}}}};
    if (gpu > 0) row["memory"]["fits"] = w.fits;
    if (w.world > 1) {
      row["by_rows"] = {{"read_seconds", w.read_by_rows_seconds}, {"weights", w.weights_by_rows}};
      if (gpu > 0) row["by_rows"]["fits"] = w.fits_by_rows;
      row["prefill_split"] = Name(w.reads_by_rows() ? PrefillSplit::kRows : PrefillSplit::kHeads);
    }
    if (w.mixture) row["experts"] = Name(w.whole_experts ? ExpertPlacement::kWhole : ExpertPlacement::kSplit);
    rows.push_back(row);
  }
  nlohmann::ordered_json assumed = {{"gpu", hosts.gpu},
                                    {"gpus_per_host", hosts.per_host},
                                    {"host_link", hosts.links.link},
                                    {"host_message_seconds", hosts.links.message_seconds},
                                    {"kv_token_bytes", request.kv_token_bytes},
                                    {"weight_bits", request.weight_bits},
                                    {"retrieval_heads", request.heads.retrieval_heads()},
                                    {"streaming_heads", request.heads.streaming_heads()}};
  if (gpu > 0) assumed["gpu_memory"] = gpu;
  const nlohmann::ordered_json out = {
      {"context", request.context}, {"strategy", Name(request.strategy)}, {"assumed", assumed}, {"simulated", rows}};
  return out.dump() + "\n";
}

}  // namespace duo
