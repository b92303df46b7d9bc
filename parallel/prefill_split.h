// What ranks share out of a chunk of prompt: its heads, or its rows.
//
// heads: tensor parallelism, as a step of decoding has it. Every rank computes all T rows with its shard of every
// matrix, and two sums a layer over all ranks of [T, hidden] join them.
//
// rows: context parallelism. Rank r keeps rows R_r of the residual stream, and computes them with the shards of all
// ranks, one after the other; so no sum leaves the rank. Attention stays where the heads are: with shard s a rank makes
// q, k and v of its rows for rank s's heads and sends them there, and gets back what they attended to. KV cache, rings,
// decoding and saved sessions are the same in both. What a rank sends in a layer, with G ranks, H query and K KV heads
// of d dimensions and no split heads:
//     heads  2 * 2 (G - 1) / G * T * hidden          numbers: two sums, each scattered and gathered
//     rows   (G - 1) / G * T / G * (2 H + 2 K) d     numbers: q, k and v there, what they attended to back
// At G = 2 and the shape of Llama-3-8B that is 8192 and 2560 for a row. The price is memory: every rank, or every host
// of several (RowGroups), holds the whole model.
//
// Pure functions of plain values; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/shard.h"

namespace duo {

enum class PrefillSplit : uint8_t { kHeads, kRows, kAuto };
const char* Name(PrefillSplit split);                                   // "heads", "rows", "auto"
absl::StatusOr<PrefillSplit> ParsePrefillSplit(std::string_view name);  // the reverse

// A chunk with fewer rows for some group goes by heads: every matrix is read for each group's rows.
inline constexpr int kLeastRowsOfGroup = 16;

// Below that share of a read's time the memory of the other ranks' weights is worth more than what rows gain.
inline constexpr double kLeastRowsGain = 0.05;

// Whom rows are shared out over: groups of ranks that share a host, where there are several hosts with several ranks
// each, as many on one as on another; else single ranks. The ranks of a group compute the same rows by heads among
// themselves, with sums inside their host: member m of a group works with the shards of all groups' members m, so that
// a host holds the whole model once.
struct RowGroups {
  int group = 0;               // of this rank
  std::vector<int> peers;      // [groups]: the rank of each whose shard this one has; peers[group] is this rank
  std::vector<double> shares;  // [groups]
  int ranks = 1;               // of a group
  int groups() const { return static_cast<int>(peers.size()); }
};
// hosts: the name of each rank's host. shares: of each rank.
RowGroups RowGroupsOf(const std::vector<std::string>& hosts, const std::vector<double>& shares, int rank);

// The rows of each group, in proportion to its share: [0, rows) cut into consecutive ranges.
std::vector<Range> RowsOfGroups(int64_t rows, const std::vector<double>& shares);

// Whether a chunk of so many rows is long enough to be shared out by rows.
bool LongEnoughForRows(int64_t rows, const std::vector<double>& shares);

// Bytes that the busiest group sends to others in one layer for each row of a chunk, by heads and by rows, where
// activations take so many bytes a number. layer: of each rank, pieces included; `ranks` in a row are a group.
struct PrefillBytes {
  double heads = 0, rows = 0;
};
PrefillBytes BytesOfLayer(const ModelShape& shape, const std::vector<RankHeads>& layer,
                          const std::vector<double>& shares, int ranks, int bytes_per_number);

// Seconds of reading `context` tokens as the model has them, by rows instead of heads: the same products and attention,
// other messages, which cross model.hosts.link where there are several hosts, else rates.read_link. Their norms are as
// many: each of the G parts is added to a rank's rows.
double ReadByRowsSeconds(const CostModel& model, const Partition& partition);

}  // namespace duo
