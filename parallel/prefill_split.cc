#include "parallel/prefill_split.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace duo {
namespace {

double KvHeadsOf(const RankHeads& heads) {
  return static_cast<double>(heads.whole.size() + heads.split.size() + heads.streaming.size());
}

}  // namespace

const char* Name(PrefillSplit split) {
  switch (split) {
    case PrefillSplit::kHeads:
      return "heads";
    case PrefillSplit::kRows:
      return "rows";
    case PrefillSplit::kAuto:
      return "auto";
  }
  return "?";
}

absl::StatusOr<PrefillSplit> ParsePrefillSplit(std::string_view name) {
  for (const PrefillSplit split : {PrefillSplit::kHeads, PrefillSplit::kRows, PrefillSplit::kAuto}) {
    if (name == Name(split)) return split;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--prefill-split: expected heads, rows or auto, found '", std::string(name), "'"));
}

RowGroups RowGroupsOf(const std::vector<std::string>& hosts, const std::vector<double>& shares, int rank) {
  std::map<std::string, std::vector<int>> members;
  std::vector<std::string> order;  // in which hosts have their first ranks
  for (size_t r = 0; r < hosts.size(); ++r) {
    std::vector<int>& of_host = members[hosts[r]];
    if (of_host.empty()) order.push_back(hosts[r]);
    of_host.push_back(static_cast<int>(r));
  }
  const size_t size = members[hosts[rank]].size();
  const bool alike =
      std::all_of(members.begin(), members.end(), [&](const auto& host) { return host.second.size() == size; });
  // Of all members, so that all ranks decide alike: peers of ascending ranks are in the order of their groups, which a
  // communicator of them has.
  bool ascending = alike;
  for (size_t m = 0; ascending && m < size; ++m) {
    for (size_t g = 1; g < order.size(); ++g) ascending &= members[order[g - 1]][m] < members[order[g]][m];
  }
  RowGroups groups;
  if (order.size() == 1 || size == 1 || !ascending) {
    groups.group = rank;
    groups.shares = shares;
    groups.peers.resize(hosts.size());
    std::iota(groups.peers.begin(), groups.peers.end(), 0);
    return groups;
  }
  const std::vector<int>& here = members[hosts[rank]];
  const auto member = std::find(here.begin(), here.end(), rank) - here.begin();
  groups.ranks = static_cast<int>(size);
  for (const std::string& host : order) {
    if (host == hosts[rank]) groups.group = groups.groups();
    groups.peers.push_back(members[host][member]);
    double share = 0;
    for (const int r : members[host]) share += shares[r];
    groups.shares.push_back(share);
  }
  return groups;
}

std::vector<Range> RowsOfGroups(int64_t rows, const std::vector<double>& shares) {
  std::vector<Range> ranges;
  for (size_t g = 0; g < shares.size(); ++g) {
    ranges.push_back(ProportionalRange(rows, shares, static_cast<int>(g), 1));
  }
  return ranges;
}

bool LongEnoughForRows(int64_t rows, const std::vector<double>& shares) {
  const std::vector<Range> ranges = RowsOfGroups(rows, shares);
  return std::all_of(ranges.begin(), ranges.end(), [](const Range& r) { return r.size() >= kLeastRowsOfGroup; });
}

PrefillBytes BytesOfLayer(const ModelShape& shape, const std::vector<RankHeads>& layer,
                          const std::vector<double>& shares, int ranks, int bytes_per_number) {
  const size_t groups = (layer.size() + ranks - 1) / ranks;
  std::vector<double> heads(groups), share(groups);  // KV heads and rows of each
  double all = 0;
  for (size_t r = 0; r < layer.size(); ++r) {
    heads[r / ranks] += KvHeadsOf(layer[r]);
    share[r / ranks] += shares[r];
    all += KvHeadsOf(layer[r]);
  }
  PrefillBytes bytes;
  bytes.heads = 2 * 2 * (static_cast<double>(groups) - 1) / static_cast<double>(groups) *
                static_cast<double>(shape.hidden) * bytes_per_number;
  const double q = static_cast<double>(shape.group()) * shape.head_dim, kv = 2.0 * shape.head_dim;
  for (size_t g = 0; g < groups; ++g) {
    // Of its own rows to the others, and of the others' rows what its heads attended to.
    const double sent = share[g] * (all - heads[g]) * (q + kv) + (1 - share[g]) * heads[g] * q;
    bytes.rows = std::max(bytes.rows, sent * bytes_per_number);
  }
  return bytes;
}

double ReadByRowsSeconds(const CostModel& model, const Partition& partition) {
  const auto tokens = static_cast<double>(model.context);
  const int hosts = model.hosts.hosts, world = partition.world, local = (world + hosts - 1) / hosts;
  const bool over_hosts = hosts > 1;
  // Hosts unlike each other are no groups (RowGroupsOf): their ranks send, each of them, over what joins the hosts.
  const bool grouped = over_hosts && world % hosts == 0;
  const double link = !over_hosts ? model.rates.read_link : grouped ? model.hosts.link : model.hosts.link / local;
  // What all ranks do alike, with the sums of heads, and without.
  const double fixed = ReadFixedSeconds(model, world), alone = tokens * model.rates.read_seconds;
  // A host's ranks add up its rows.
  const double sums = grouped && local > 1 ? 2 * tokens / hosts * 2.0 * model.shape.hidden / model.rates.read_link : 0;
  double seconds = 0;
  for (const std::vector<RankHeads>& layer : partition.layers) {
    const double bytes = BytesOfLayer(model.shape, layer, partition.shares, grouped ? local : 1, 2).rows;
    seconds += LayerReadSeconds(model, layer, partition.shares) - fixed + alone + sums + tokens * bytes / link;
  }
  return seconds;
}

}  // namespace duo
