#include "runtime/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace duo {
namespace {

struct Candidate {
  float logit;
  int32_t id;
};

float LogSumExp(const std::vector<float>& parts) {
  const float top = *std::max_element(parts.begin(), parts.end());
  if (std::isinf(top)) return top;
  double sum = 0;
  for (float part : parts) sum += std::exp(static_cast<double>(part) - top);
  return top + static_cast<float>(std::log(sum));
}

// The `count` largest logits of each rank's shard, most likely first.
std::vector<Candidate> GatherCandidates(Device& device, Communicator& comm, const LogitShard& own, int count,
                                        Arena& arena) {
  const size_t mark = arena.used();
  const int mine = static_cast<int>(std::min<int64_t>(count, own.logits.cols));
  std::vector<float> values(count, -std::numeric_limits<float>::infinity());
  std::vector<int32_t> ids(count, -1);
  if (mine > 0) {
    auto* device_values = static_cast<float*>(arena.Take(4 * mine));
    auto* device_ids = static_cast<int32_t*>(arena.Take(4 * mine));
    TopLogits(device, {device_values, device_ids, mine}, own.logits, own.first_id, arena);
    device.Download(values.data(), device_values, 4 * mine);
    device.Download(ids.data(), device_ids, 4 * mine);
  }
  arena.Rewind(mark);
  std::vector<float> all_values(values.size() * comm.size());
  std::vector<int32_t> all_ids(ids.size() * comm.size());
  comm.AllGatherHost(all_values.data(), values.data(), 4 * values.size());
  comm.AllGatherHost(all_ids.data(), ids.data(), 4 * ids.size());
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < all_ids.size(); ++i) {
    if (all_ids[i] >= 0) candidates.push_back({all_values[i], all_ids[i]});
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  return candidates;
}

// own: one row's. lse: of the whole row.
int32_t DrawFromNucleus(Device& device, Communicator& comm, const LogitShard& own, const SampleParams& p, float lse,
                        Arena& arena) {
  int64_t widest = own.logits.cols;
  std::vector<int64_t> widths(comm.size());
  comm.AllGatherHost(widths.data(), &widest, sizeof widest);
  widest = *std::max_element(widths.begin(), widths.end());
  for (int64_t count = std::min<int64_t>(1024, widest);; count = std::min(2 * count, widest)) {
    const std::vector<Candidate> candidates = GatherCandidates(device, comm, own, static_cast<int>(count), arena);
    // Below the largest of the ranks' smallest candidates some shard may hide a better one, but what is before it is
    // the true order; it is enough that the nucleus ends within the first `count`, which are right on every rank.
    double mass = 0;
    float best = -std::numeric_limits<float>::infinity();
    int32_t best_id = candidates.front().id;
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (static_cast<int64_t>(i) >= count && count < widest) break;
      const float scaled = candidates[i].logit / p.temperature;
      const float value = scaled + SampleNoise(p.seed, p.position, candidates[i].id);
      if (value > best || (value == best && candidates[i].id < best_id)) {
        best = value;
        best_id = candidates[i].id;
      }
      mass += std::exp(static_cast<double>(scaled) - lse);
      if (mass >= p.top_p) return best_id;
    }
    if (count == widest) return best_id;  // rounding kept the whole vocabulary just below top_p
  }
}

}  // namespace

std::vector<int32_t> DrawTokens(Device& device, Communicator& comm, const std::vector<ShardSample>& shards,
                                const LogitShard& own, const std::vector<SampleParams>& params, Arena& arena) {
  const size_t rows = shards.size();
  std::vector<ShardSample> all(rows * comm.size());
  comm.AllGatherHost(all.data(), shards.data(), rows * sizeof(ShardSample));
  std::vector<int32_t> tokens(rows);
  for (size_t i = 0; i < rows; ++i) {
    ShardSample best{0, -std::numeric_limits<float>::infinity(), -1};
    std::vector<float> parts;
    for (int r = 0; r < comm.size(); ++r) {
      const ShardSample& s = all[r * rows + i];
      parts.push_back(s.lse);
      if (s.id >= 0 && (best.id < 0 || s.value > best.value || (s.value == best.value && s.id < best.id))) best = s;
    }
    const float lse = LogSumExp(parts);
    tokens[i] = std::isfinite(lse) ? best.id : kNoToken;
    if (tokens[i] == kNoToken) continue;
    if (params[i].top_p < 1.0f && params[i].temperature >= kGreedyBelow) {
      tokens[i] = DrawFromNucleus(device, comm, {own.logits.Rows(i, 1), own.first_id}, params[i], lse, arena);
    }
  }
  return tokens;
}

size_t DrawScratchBytes(const Device& device, int64_t shard) {
  const int count = static_cast<int>(shard);
  return 2 * Arena::Rounded(4 * shard) + TopLogitsScratchBytes(device, 1, shard, count) + 8 * Arena::kAlignment;
}

}  // namespace duo
